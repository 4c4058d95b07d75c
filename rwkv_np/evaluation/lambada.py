"""LAMBADA: can a model guess the last word of a passage, which depends on the whole passage?

Each line of the file is a JSON document {"text": ...}. The last word is the text after the last space,
including that space. The model reads a newline, then the passage. The word is right if each of its
tokens is the most likely one after the correct tokens before it. Perplexity is e^(-mean log-probability
of the words): it is per word, not per token. The log-probability of a word is the sum of those of its
tokens.

Source: BlinkDL/ChatRWKV, v2/benchmark.py, which gave the published results of RWKV-4: it
starts with token 187, a newline of the 20B tokenizer; run_lm_eval.py there uses the newline of any tokenizer.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from rwkv_np.errors import PathLike, TextError
from rwkv_np.evaluation.divergence import log_softmax, negative_log_likelihood
from rwkv_np.evaluation.quality import Estimate, exponential, mean, share
from rwkv_np.evaluation.text import read_text
from rwkv_np.models.base import Model
from rwkv_np.text import find_surrogate, parse_json
from rwkv_np.tokenizers import Tokenizer

START = "\n"


@dataclass(frozen=True)
class Item:
    """The tokens to read, and the word that should follow."""

    passage: list[int]
    word: list[int]


@dataclass(frozen=True)
class LastWords:
    """How well a model guesses."""

    n_words: int
    perplexity: Estimate
    accuracy: Estimate


@dataclass
class Guesses:
    """One model's guesses so far: ln of the probability of each word, and whether the model predicted it."""

    log_probs: list[float] = field(default_factory=list)
    is_right: list[bool] = field(default_factory=list)

    def result(self) -> LastWords | None:
        """None before the second word: an error needs two."""
        if len(self.is_right) < 2:
            return None
        nll = -np.array(self.log_probs)
        return LastWords(len(nll), exponential(mean(nll)), share(np.array(self.is_right)))


def read_items(path: PathLike, tokenizer: Tokenizer, limit: int | None = None) -> list[Item]:
    """The passages of a JSONL file, the first `limit` of them. Raises TextError, naming the line; OSError."""
    items: list[Item] = []
    for number, line in enumerate(read_text(path).split("\n"), start=1):
        if line.strip() and (limit is None or len(items) < limit):
            items.append(_item(path, number, line, tokenizer))
    if len(items) < 2:
        raise TextError(path, f"contains {len(items)} passage; expected at least two, to compute a standard error")
    return items


def _item(path: PathLike, number: int, line: str, tokenizer: Tokenizer) -> Item:
    try:
        text = parse_json(line)["text"]
        passage, word = text.rsplit(" ", 1)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise TextError(
            path, f'line {number} is not {{"text": "..."}} with at least two words: {line[:60]!r}'
        ) from error
    if half := find_surrogate(text):
        raise TextError(path, f"line {number} contains {half}, half a surrogate pair; expected text in UTF-8")
    if not word:
        raise TextError(path, f"line {number} ends in a space; expected a word there: {line[-60:]!r}")
    return Item(tokenizer.encode(START) + tokenizer.encode(passage), tokenizer.encode(f" {word}"))


def guess(model: Model, item: Item) -> tuple[float, bool]:
    """(ln of the probability of the word, whether the model predicts it)."""
    first, state = model.forward(item.passage)
    rows = first[None]
    if len(item.word) > 1:
        rows = np.concatenate([rows, model.forward(item.word[:-1], state, full_output=True)[0]])
    word = np.array(item.word)
    nll = negative_log_likelihood(log_softmax(rows), word)
    return -float(nll.sum()), bool((rows.argmax(axis=1) == word).all())


def guess_all(
    models: Sequence[Model], items: Sequence[Item], guesses: Sequence[Guesses],
    progress: Callable[[int], None] | None = None,
) -> None:  # fmt: skip
    """Let all models guess each word in turn; `guesses` always has the results so far."""
    for done, item in enumerate(items, start=1):
        found = [guess(model, item) for model in models]
        for of_one, (log_prob, is_right) in zip(guesses, found):
            of_one.log_probs.append(log_prob)
            of_one.is_right.append(is_right)
        if progress:
            progress(done)
