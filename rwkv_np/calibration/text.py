"""The windows of text that a model is calibrated on, and some that are kept back to judge the result.

A window is a run of tokens that the model reads from its empty state, as in training: it starts where a document
starts. Documents end at <|endoftext|>; in a text without it, at empty lines. Windows are spread over the whole text,
and every ninth is kept back. There is no default text: a wrong one makes a model worse than no calibration.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from rwkv_np.errors import PathLike, TextError
from rwkv_np.evaluation.text import read_text
from rwkv_np.tokenizers import Tokenizer

END_OF_TEXT = "<|endoftext|>"
WINDOW = 512  # tokens
KEPT_BACK = 9  # one window in so many
LEAST = 8  # windows to calibrate on; fewer say nothing about 2048 columns


class Windows(NamedTuple):
    """Token ids, each (n,) int32: what the model is calibrated on, and what judges it."""

    calibration: list[np.ndarray]
    kept_back: list[np.ndarray]


def read_windows(path: PathLike, tokenizer: Tokenizer, n_tokens: int, window: int = WINDOW) -> Windows:
    """Windows with `n_tokens` tokens for calibration, and an eighth of that kept back; fewer if the text is shorter.

    Raises  TextError: the text is too short, empty, or not UTF-8; OSError
    """
    n = max(1, n_tokens // window)
    found = list(_cut(_documents(read_text(path), tokenizer), n + -(-n // (KEPT_BACK - 1)), window))
    kept_back = found[KEPT_BACK - 1 :: KEPT_BACK] or found[-1:]
    used = [ids for ids in found if not any(ids is other for other in kept_back)]
    if len(used) < min(n, LEAST):
        raise TextError(
            path,
            f"gives {len(found)} windows of {window} tokens, of which {len(kept_back)} are kept back; expected at "
            f"least {min(n, LEAST) + 1}: give a longer text of the kind that the model is used for",
        )
    return Windows(used, kept_back)


class _Documents(NamedTuple):
    """The documents of a text, the place (in characters) where each starts, and the end that each has."""

    texts: list[str]
    starts: list[int]
    size: int
    tokenizer: Tokenizer
    end: list[int]

    def ids(self, i: int) -> list[int]:
        return [*self.tokenizer.encode(self.texts[i]), *self.end]


def _documents(text: str, tokenizer: Tokenizer) -> _Documents:
    end: list[int] = []
    if END_OF_TEXT in text:
        texts, end = text.split(END_OF_TEXT), tokenizer.encode(END_OF_TEXT)
        # A vocabulary without a token for it means id 0, as in RWKV's training.
        end = end if len(end) == 1 else [0]
    else:
        texts = re.split(r"(?<=\n)(?=[^\n]*\S)(?<=\n\n)", text)
    texts = [part for part in texts if part.strip()]
    starts = np.cumsum([0, *map(len, texts)]).tolist()
    return _Documents(texts, starts, starts[-1], tokenizer, end)


def _cut(documents: _Documents, n: int, window: int) -> Iterator[np.ndarray]:
    """Up to n windows of whole consecutive documents, the last one cut, spread over the text; none overlap."""
    at = 0
    for i in range(n):
        while at < len(documents.texts) and documents.starts[at] < i * documents.size // n:
            at += 1
        ids: list[int] = []
        while at < len(documents.texts) and len(ids) < window:
            ids += documents.ids(at)
            at += 1
        if len(ids) >= window:
            yield np.array(ids[:window], np.int32)
