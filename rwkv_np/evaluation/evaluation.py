"""Runs an evaluation: measures group after group of models, and fills the report.

Candidates come in groups that fit into memory, or on the disk, together. For each group it measures
the cost, reads the text in step with the base, guesses last words, and releases the models. Whatever
stops the work, the report contains all results up to that moment.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

import numpy as np

from rwkv_np.errors import InputError
from rwkv_np.evaluation.base_file import VERSION, BaseFile, Header, SavingReader
from rwkv_np.evaluation.candidate import Candidate
from rwkv_np.evaluation.cost import Cost, cost, size
from rwkv_np.evaluation.lambada import Guesses, Item, guess_all
from rwkv_np.evaluation.quality import Quality, quality
from rwkv_np.evaluation.record import Record, by_position
from rwkv_np.evaluation.report import Report, Row
from rwkv_np.evaluation.walk import ModelReader, Passage, Reader, walk
from rwkv_np.files.output import new_file
from rwkv_np.models.base import Model

Progress = Callable[[str, int, int], None]
"""Called with a short text of the results so far, how much is done, and the total."""

LEAST = 2  # positions; a standard error needs at least two


def _no_progress(text: str, done: int, total: int) -> None:
    """No progress display."""


@dataclass(frozen=True)
class Task:
    """The data and options for every group.

    passage    the text to be predicted, or None
    items      LAMBADA's passages, or None
    is_timed   whether speed and memory are measured
    save_base  a new file for the base's predictions, or None
    """

    passage: Passage | None = None
    items: Sequence[Item] | None = None
    is_timed: bool = True
    threads: int | None = None
    save_base: str | None = None


class Evaluation:
    """Fills `report` as groups are run. The base is a model, or a file of its saved predictions."""

    def __init__(self, task: Task, base: Candidate | BaseFile, report: Report) -> None:
        self._task, self._base, self.report = task, base, report
        self._save_base = task.save_base

    def run(self, group: Sequence[Candidate], progress: Progress | None = None) -> None:
        """Measure a group together with the base. Raises what loading and reading a model raises."""
        progress = progress or _no_progress
        base = [] if isinstance(self._base, BaseFile) else [self._base]
        together = [*base, *(candidate for candidate in group if candidate not in base)]
        rows = [self._row(candidate) for candidate in together]
        for candidate, row in zip(together, rows):
            row.cost = row.cost or self._cost(candidate)
        models = [candidate.load(self._task.threads) for candidate in together]
        if self._task.passage:
            self._predict(self._task.passage, models, rows, progress)
        if self._task.items:
            self._guess(self._task.items, models, rows, progress)

    def _row(self, candidate: Candidate) -> Row:
        """The candidate's row, created the first time: the base is in every group."""
        return self.report.row(candidate.name) or self.report.add(Row(
            candidate.name, os.path.basename(candidate.path), candidate.data_type, candidate.head_type,
            candidate.variant_of, candidate.has_float32_activations,
        ))  # fmt: skip

    def _cost(self, candidate: Candidate) -> Cost:
        return cost(candidate, self._task.threads) if self._task.is_timed else size(candidate.path)

    def _predict(self, passage: Passage, models: Sequence[Model], rows: list[Row], progress: Progress) -> None:
        readers: list[Reader] = [ModelReader(row.name, model) for row, model in zip(rows, models)]
        if isinstance(self._base, BaseFile):
            header = self._base.header
            readers.insert(0, self._base.reader())
            row = Row(self._base.name, os.path.basename(self._base.path), header.data_type, header.head_type)
            rows = [self.report.row(row.name) or self.report.add(row), *rows]
        record = Record(len(readers), passage.n_positions)

        def show(done: int) -> None:
            progress(_figures(record, rows), done, len(passage.tokens) - 1)

        try:
            with ExitStack() as stack:
                if self._save_base:
                    file = stack.enter_context(new_file(self._save_base))
                    readers[0] = SavingReader(readers[0], file, _header(rows[0], models[0], passage), passage)
                walk(readers, passage, record, show)
            self._save_base = None  # only with the first group
        finally:
            _take(record, rows, passage.skip)

    def _guess(self, items: Sequence[Item], models: Sequence[Model], rows: Sequence[Row], progress: Progress) -> None:
        guesses = [Guesses() for _ in models]

        def show(done: int) -> None:
            shares = [f"{row.name} {100 * np.mean(of_one.is_right):.1f} %" for row, of_one in zip(rows, guesses)]
            progress(f"last words right: {', '.join(shares)}", done, len(items))

        try:
            guess_all(models, items, guesses, show)
        finally:
            for row, of_one in zip(rows, guesses):
                found = of_one.result()
                if found and (row.last_words is None or row.last_words.n_words < found.n_words):
                    row.last_words = found


def _header(row: Row, model: Model, passage: Passage) -> Header:
    n_rows = len(passage.tokens) - 1
    return Header(VERSION, row.name, row.data_type, row.head_type, model.config.vocab_size, n_rows, passage.window)


def _take(record: Record, rows: Sequence[Row], first: int) -> None:
    """Write the results so far into the rows, the base's first; positions count from `first`."""
    if record.n < LEAST:
        return
    base = record.scores(0)
    _take_base(rows[0], quality(base))
    for i, row in enumerate(rows[1:], start=1):
        scores = record.scores(i)
        row.quality, row.kl_by_position = quality(scores, base), by_position(scores.kl, first)


def _take_base(row: Row, found: Quality) -> None:
    """The base runs once with each group, and must give the same result each time."""
    if row.quality is None or row.quality.n_tokens < found.n_tokens:
        row.quality = found
    elif row.quality.n_tokens == found.n_tokens and row.quality != found:
        raise InputError(f"{row.file} was changed while it was measured; measure it again")


def _figures(record: Record, rows: Sequence[Row]) -> str:
    """The running figures: the base's perplexity, and the mean KL divergence of the others."""
    if not record.n:
        return ""
    perplexity = np.exp(record.scores(0).nll.mean())
    others = [f"{row.name} {record.scores(i).kl.mean():.3g}" for i, row in enumerate(rows) if i]
    return f"perplexity {perplexity:.4g}" + (f", KL {', '.join(others)}" if others else "")
