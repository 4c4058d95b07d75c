"""Text to token ids and back, and which tokenizer a model needs.

Models do not name their tokenizer; it follows from the size of the vocabulary and the files next
to the model. `load_tokenizer` decides in this order:

1. The one that the caller names. It always has priority, and must fit the model. Then, for a GGUF file, the
   vocabulary in it (`gguf.py`); if it is of another kind, only a file of (2).
2. A tokenizer.json next to the model: MODEL.tokenizer.json, tokenizer.json, 20B_tokenizer.json.
3. The tokenizer of that size: 256 bytes, 50277 20B (from the Hugging Face cache, or downloaded
   once), 65536 World.

A folder may contain several models, so for the three sizes of (3) a file of (2) is used only if it has
exactly that number of ids; any other, or a damaged one, is skipped. For other sizes a file is the only
source: it may be smaller than the vocabulary by a trainer's padding (see `base.is_padded`), and is an
error if it does not fit. One such size has a tokenizer without a file: 50304 is the size of the 20B
tokenizer, rounded up, as in RWKV-7 Pile; but other tokenizers are rounded up to it too.

The `tokenizers` library, the World vocabulary and `huggingface_hub` are each imported when first
needed.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from rwkv_np import arguments
from rwkv_np.errors import InputError, PathLike, TokenizerError
from rwkv_np.files.gguf import GgufFile, is_gguf
from rwkv_np.tokenizers.base import Tokenizer, check_fit
from rwkv_np.tokenizers.bpe import N_IDS_20B, BpeTokenizer
from rwkv_np.tokenizers.byte import N_IDS as BYTES_SIZE
from rwkv_np.tokenizers.byte import ByteTokenizer
from rwkv_np.tokenizers.gguf import other_kind, tokenizer_of
from rwkv_np.tokenizers.hub import fetch_20b
from rwkv_np.tokenizers.stream import TextStream
from rwkv_np.tokenizers.world import VOCAB_SIZE as WORLD_SIZE
from rwkv_np.tokenizers.world import WorldTokenizer

__all__ = ["TextStream", "Tokenizer", "load_tokenizer"]

Notify = Callable[[str], None]

# RWKV-7 Pile: the 20B tokenizer, rounded up. (RWKV-LM, RWKV-v7/train_temp/demo-training-run-v7-pile.sh)
PILE_SIZE = 50304
NAME_OF_SIZE = {BYTES_SIZE: "bytes", N_IDS_20B: "20b", WORLD_SIZE: "world"}
FILE_NAMES = ("tokenizer.json", "20B_tokenizer.json")


def load_tokenizer(
    path: PathLike | None = None,
    vocab_size: int | None = None,
    *,
    model_path: PathLike | None = None,
    notify: Notify | None = None,
) -> Tokenizer:
    """The tokenizer at `path`, or the one that a model of `vocab_size` at `model_path` needs.

    `path` is a tokenizer.json, a folder that contains one, or "20B", "world" or "bytes" in any case
    (a file of such a name is given as ./world). `notify` gets one line for a download and
    for a damaged file that was skipped. Raises TokenizerError: none is found, or it is damaged, or it
    does not fit; InputError: neither path nor vocab_size is given.
    """
    if vocab_size is not None:
        vocab_size = arguments.whole_number("vocab_size", vocab_size, 1)
    if model_path is not None:
        model_path = arguments.path("model_path", model_path)
    if path is not None:
        return _load_given(arguments.path("path", path), vocab_size, model_path, notify)
    if vocab_size is None:
        raise InputError("load_tokenizer needs a path, a name or the model's vocab_size; got none of them")
    file = _gguf_at(model_path)
    if file and (found := tokenizer_of(file, vocab_size)):
        return found
    if file and (kind := other_kind(file)):
        return _load_instead(file, kind, vocab_size)
    if vocab_size not in NAME_OF_SIZE:
        return _load_only_source(vocab_size, model_path, notify)
    beside = _pick_beside(model_path, vocab_size, notify, lambda tokenizer: tokenizer.n_ids == vocab_size)
    return beside or _load_named(NAME_OF_SIZE[vocab_size], vocab_size, notify)


def _gguf_at(model_path: PathLike | None) -> GgufFile | None:
    is_one = model_path is not None and os.path.isfile(model_path) and is_gguf(model_path)
    return GgufFile(model_path) if model_path is not None and is_one else None


def _load_instead(file: GgufFile, kind: str, vocab_size: int) -> Tokenizer:
    """A file next to a GGUF file whose own tokenizer is of another kind: its size does not say which one it is."""
    if files := _files_beside(file.path):
        return _load_first(files, vocab_size)
    raise TokenizerError(
        file.path,
        f"its tokenizer is {kind!r}; only 'rwkv' is read from GGUF files. Give the model's tokenizer.json: --tokenizer "
        "PATH, or put it next to the model",
    )


def _load_given(path: str, vocab_size: int | None, model_path: PathLike | None, notify: Notify | None) -> Tokenizer:
    name = path.lower()
    if name == "20b":
        check_fit(path, N_IDS_20B, vocab_size or N_IDS_20B)  # before anything is downloaded
        beside = _pick_beside(model_path, vocab_size, None, lambda tokenizer: tokenizer.name == "20B")
        return beside or _load_named(name, vocab_size, notify)
    if name in NAME_OF_SIZE.values():
        return _load_named(name, vocab_size, notify)
    if not os.path.isdir(path):
        return BpeTokenizer(path, vocab_size)
    files = _existing(Path(path), FILE_NAMES)
    if not files:
        raise TokenizerError(path, f"the folder contains neither {' nor '.join(FILE_NAMES)}")
    return _load_first(files, vocab_size)


def _load_named(name: str, vocab_size: int | None, notify: Notify | None) -> Tokenizer:
    if name == "bytes":
        return ByteTokenizer(vocab_size)
    if name == "world":
        return WorldTokenizer(vocab_size)
    return BpeTokenizer(fetch_20b(notify), vocab_size)


def _existing(folder: Path, names: tuple[str, ...]) -> list[Path]:
    return [file for file in (folder / name for name in names) if file.is_file()]


def _files_beside(model_path: PathLike | None) -> list[Path]:
    if model_path is None:
        return []
    model = Path(model_path)
    return _existing(model.parent, (f"{model.stem}.tokenizer.json", *FILE_NAMES))


def _pick_beside(
    model_path: PathLike | None,
    vocab_size: int | None,
    notify: Notify | None,
    is_wanted: Callable[[BpeTokenizer], bool],
) -> BpeTokenizer | None:
    """The first file next to the model that fits; `notify` gets a line for damaged ones.

    A tokenizer of another model is not reported: folders contain several.
    """
    for file in _files_beside(model_path):
        try:
            if is_wanted(BpeTokenizer(file)):
                return BpeTokenizer(file, vocab_size)
        except TokenizerError as error:
            if notify is not None:
                notify(f"Skipped a tokenizer next to the model: {error}")
    return None


def _load_first(files: list[Path], vocab_size: int | None) -> BpeTokenizer:
    """The first of `files` that fits; raises the first one's TokenizerError if none fits."""
    errors = []
    for file in files:
        try:
            return BpeTokenizer(file, vocab_size)
        except TokenizerError as error:
            errors.append(error)
    raise errors[0]


def _load_only_source(vocab_size: int, model_path: PathLike | None, notify: Notify | None) -> Tokenizer:
    files = _files_beside(model_path)
    if files:
        return _load_first(files, vocab_size)
    if vocab_size == PILE_SIZE:
        return _load_named("20b", vocab_size, notify)
    raise TokenizerError(
        "tokenizer" if model_path is None else model_path,
        f"no known tokenizer has {vocab_size} ids (known: 256 bytes, 50277 20B, "
        "65536 World). Give the model's own: --tokenizer PATH, or put it next to the model as tokenizer.json",
    )
