"""Perplexity over a folder of texts, each read from an empty state; on this machine, or on all nodes of a cluster.

The results are sums for each file, and the total adds them in the order of the files' names. So the figures do not
depend on which machine read which file, or when.
"""

from __future__ import annotations

import math
import os
import threading
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple

from rwkv_np.errors import InputError, RwkvError, TextError, one_line
from rwkv_np.evaluation.candidate import candidate
from rwkv_np.evaluation.record import Record
from rwkv_np.evaluation.text import tokenize
from rwkv_np.evaluation.walk import ModelReader, Passage, walk
from rwkv_np.files.reading import TEXT_LIMIT, read_text_file
from rwkv_np.models.base import Model
from rwkv_np.text import decode_utf8
from rwkv_np.tokenizers import Tokenizer, load_tokenizer


class Document(NamedTuple):
    """A text to read. `data` is its UTF-8; the name is relative to the folder."""

    number: int
    name: str
    data: bytes


class Measured(NamedTuple):
    """A text that was read.

    n_tokens  predictions that count
    nll       the sum of their negative log-likelihoods, in nats
    n_bytes   of the text of these tokens
    problem   why it could not be read; then the figures are 0
    """

    number: int
    name: str
    n_tokens: int = 0
    nll: float = 0.0
    n_bytes: int = 0
    problem: str = ""


def names_in(folder: str) -> list[str]:
    """The regular files in a folder and below it, sorted; hidden ones are left out. Raises InputError: none."""
    root = Path(folder)
    paths = (path.relative_to(root) for path in root.rglob("*") if path.is_file())
    found = sorted(path.as_posix() for path in paths if not any(part.startswith(".") for part in path.parts))
    if not found:
        raise InputError(f"{folder} contains no files; expected texts to predict")
    return found


def documents(folder: str, names: Iterable[str]) -> Iterator[Document | Measured]:
    """The texts, one at a time; for one that cannot be read, its problem."""
    for number, name in enumerate(names):
        try:
            data = read_text_file(os.path.join(folder, name), TEXT_LIMIT, TextError)
        except (OSError, RwkvError) as error:
            yield Measured(number, name, problem=one_line(error))
        else:
            yield Document(number, name, data)


@dataclass(frozen=True)
class Measure:
    """How texts are read; the fields mean the same as in Conditions."""

    model: Model
    tokenizer: Tokenizer
    limit: int | None = None
    skip: int = 0
    window: int | None = None

    def __call__(self, document: Document) -> Measured:
        """Read one text."""
        number, name, data = document
        try:
            tokens = tokenize(decode_utf8(data, name), self.tokenizer, self.limit)
            passage = Passage(tokens, self.skip, self.window)
            if passage.n_positions < 1:
                raise TextError(name, f"has {len(tokens)} tokens; expected at least {2 + self.skip}")
            record = Record(1, passage.n_positions)
            walk([ModelReader(name, self.model)], passage, record)
        except RwkvError as error:
            return Measured(number, name, problem=one_line(error))
        counted = passage.tokens[1 + self.skip :].tolist()
        n_bytes = sum(len(self.tokenizer.token_bytes(token)) for token in counted)
        return Measured(number, name, record.n, float(record.scores(0).nll.sum()), n_bytes)


def open_measure(path: str, options: Mapping[str, Any]) -> Measure:
    """Load the model at `path`; `options` are those of `rwkv-np evaluate`."""
    one = candidate(path, head_epsilon=options["head_epsilon"])
    tokenizer = load_tokenizer(options["tokenizer"], one.vocab_size, model_path=path)
    return Measure(one.load(options["threads"]), tokenizer, options["limit"], options["skip"], options["window"])


class MeasureWork:
    """The work of a cluster's node: one text after another, and the next one is there already."""

    n_ahead = 2

    def __init__(self, measure: Measure) -> None:
        self._measure = measure
        self._given: SimpleQueue[Document | None] = SimpleQueue()
        self._done: SimpleQueue[Measured] = SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="rwkv-np corpus", daemon=True)
        self._thread.start()

    def submit(self, item: Document) -> None:
        """Read this text too."""
        self._given.put(item)

    def take_within(self, seconds: float) -> Measured:
        """The next text that was read. Raises Empty, RwkvError."""
        try:
            return self._done.get(timeout=seconds) if seconds else self._done.get_nowait()
        except Empty:
            if not self._thread.is_alive():
                raise RwkvError("a text could not be evaluated, because of an error in the program") from None
            raise

    def stop(self) -> None:
        """End after the current text."""
        self._given.put(None)

    def _run(self) -> None:
        while (document := self._given.get()) is not None:
            self._done.put(self._measure(document))


def open_work(path: str, options: Mapping[str, Any]) -> MeasureWork:
    """Load the model for a node."""
    return MeasureWork(open_measure(path, options))


class Total(NamedTuple):
    """All texts together."""

    n_tokens: int
    nll: float
    n_bytes: int

    @classmethod
    def of(cls, found: Iterable[Measured]) -> Total:
        """The sums, in the given order."""
        n_tokens, nll, n_bytes = 0, 0.0, 0
        for each in found:
            n_tokens, nll, n_bytes = n_tokens + each.n_tokens, nll + each.nll, n_bytes + each.n_bytes
        return cls(n_tokens, nll, n_bytes)


def perplexity(n_tokens: int, nll: float) -> float | None:
    """e to the mean of the negative log-likelihoods; None without tokens."""
    return math.exp(nll / n_tokens) if n_tokens else None


def as_dict(model: str, found: Iterable[Measured]) -> dict[str, Any]:
    """The report for JSON; `found` in the order of names."""
    rows = list(found)
    total = Total.of(rows)
    files = [
        {"file": each.name, "problem": each.problem} if each.problem else {"file": each.name, **_figures(each)}
        for each in rows
    ]
    return {"model": model, "files": files, "total": _figures(total)}


def _figures(found: Measured | Total) -> dict[str, Any]:
    nats_per_byte = found.nll / found.n_bytes if found.n_bytes else None
    return {
        "tokens": found.n_tokens, "bytes": found.n_bytes, "nll": found.nll,
        "perplexity": perplexity(found.n_tokens, found.nll),
        "bits_per_byte": None if nats_per_byte is None else nats_per_byte / math.log(2),
    }  # fmt: skip


def as_table(model: str, found: Iterable[Measured]) -> str:
    """The report for a terminal."""
    rows = list(found)
    width = max([len(model) + 5, *(len(each.name) for each in rows)])
    lines = [f"{'text':{width}}  {'tokens':>12}  perplexity"]
    for each in rows:
        value = perplexity(each.n_tokens, each.nll)
        lines.append(f"{each.name:{width}}  {each.n_tokens:12,}  " + (f"{value:.4f}" if value else each.problem))
    total = Total.of(rows)
    value = perplexity(total.n_tokens, total.nll)
    lines.append(f"{f'{model}, all':{width}}  {total.n_tokens:12,}  " + (f"{value:.4f}" if value else "–"))
    return "\n".join(lines)
