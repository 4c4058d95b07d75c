"""A text to be predicted: read it, check it, and turn it into token ids, which are cached.

Encoding a text of a million tokens takes longer than loading a model. The ids are stored in the cache
folder under a hash of their inputs: the text and the tokenizer. They are preceded by their own hash: a
result from damaged ids would be wrong, but look like any other.
"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import numpy as np

from rwkv_np.errors import OutputError, PathLike, TextError
from rwkv_np.evaluation.walk import Passage
from rwkv_np.files.output import new_file
from rwkv_np.files.reading import TEXT_LIMIT, read_text_file
from rwkv_np.kernels import cache
from rwkv_np.kernels.notes import say_once
from rwkv_np.text import decode_utf8
from rwkv_np.tokenizers import Tokenizer

CACHE = "tokens"  # the folder's name, beside the compiled kernels
_DIGEST = 32  # bytes of a hash
LEAST = 100  # predictions: with fewer, a standard error or a 99 % point means nothing


def read_text(path: PathLike) -> str:
    """The UTF-8 text at `path`. Raises TextError: it is empty, or not UTF-8 (with the place); OSError."""
    text = decode_utf8(read_text_file(path, TEXT_LIMIT, TextError), path)
    if not text.strip():
        raise TextError(path, "contains no text; expected a text to predict")
    return text


def read_passage(
    path: PathLike, tokenizer: Tokenizer, limit: int | None = None, skip: int = 0, window: int | None = None
) -> Passage:
    """The first `limit` tokens of the text at `path`, to be predicted. Raises TextError, OSError."""
    tokens = tokenize(read_text(path), tokenizer, limit)
    passage = Passage(tokens, skip, window)
    if passage.n_positions < LEAST:
        limited = "" if limit is None else f" (--limit {limit})"
        raise TextError(
            path,
            f"has {len(tokens)} tokens{limited}, of which {max(0, passage.n_positions)} are left to predict; "
            f"expected at least {LEAST + 1 + skip}: give a longer text",
        )
    return passage


def tokenize(text: str, tokenizer: Tokenizer, limit: int | None = None) -> np.ndarray:
    """The ids of `text`, (N,) uint32, the first `limit` of them; from the cache if it has them."""
    place = _place(text, tokenizer)
    ids = _load(place) if place else None
    if ids is None:
        ids = np.array(tokenizer.encode(text), np.uint32)
        if place:
            _keep(place, ids)
    return ids[:limit]


def _place(text: str, tokenizer: Tokenizer) -> Path | None:
    folder = cache.place(CACHE)
    if folder is None:
        return None
    found = hashlib.sha256(f"{tokenizer.name}\0{tokenizer.n_ids}\0{text}".encode())
    if tokenizer.file and os.path.isfile(tokenizer.file):  # its contents may change, and those of one called "20B"
        found.update(Path(tokenizer.file).read_bytes())
    return folder / f"{found.hexdigest()[:32]}.ids"


def _load(path: Path) -> np.ndarray | None:
    """The cached ids; None if there are none, or they are damaged."""
    try:
        data = path.read_bytes()
    except OSError:
        return None
    digest, ids = data[:_DIGEST], data[_DIGEST:]
    is_whole = len(ids) % 4 == 0 and hashlib.sha256(ids).digest() == digest
    return np.frombuffer(ids, "<u4").astype(np.uint32) if is_whole else None


def _keep(path: Path, ids: np.ndarray) -> None:
    try:
        data = ids.astype("<u4").tobytes()
        with new_file(path, overwrite=True) as file:
            file.write(hashlib.sha256(data).digest() + data)
    except OutputError as error:  # a cache that cannot be written only costs time
        say_once(f"{error}. The evaluation continues; the next one encodes the text again")
