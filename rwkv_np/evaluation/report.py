"""All results of one evaluation, as plain values: report.json contains them, tables and plots show them.

After an interruption some rows have no quality, or one over fewer tokens; `is_partial` is then true.
File names appear without their folders, so that a report can be shared.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

from rwkv_np.evaluation.cost import Cost
from rwkv_np.evaluation.lambada import LastWords
from rwkv_np.evaluation.quality import Quality

FORMAT = 1  # version of report.json


@dataclass
class Row:
    """A candidate and its results.

    variant_of      the name of the same model with default options; None if this is that model
    kl_by_position  means over runs of the text: (first position, last position + 1, mean KL divergence)
    """

    name: str
    file: str
    data_type: str
    head_type: str
    variant_of: str | None = None
    has_float32_activations: bool = False
    cost: Cost | None = None
    quality: Quality | None = None
    kl_by_position: list[tuple[int, int, float]] = field(default_factory=list)
    last_words: LastWords | None = None


@dataclass(frozen=True)
class Share:
    """Where a model's KL divergence comes from: `weights` is measured with float32 activations.

    `activations` is the part added by rounding those to 8 bits; within the error it may be negative.
    """

    name: str
    total: float
    weights: float

    @property
    def activations(self) -> float:
        return self.total - self.weights


@dataclass
class Report:
    """One evaluation.

    conditions  what else the results depend on: text, tokens, tokenizer, threads, processor, versions
    """

    base: str
    conditions: dict[str, Any]
    rows: list[Row] = field(default_factory=list)
    is_partial: bool = False

    def row(self, name: str) -> Row | None:
        """The row with that name, or None if there is none yet."""
        return next((row for row in self.rows if row.name == name), None)

    def add(self, row: Row) -> Row:
        """Append `row`, and return it."""
        self.rows.append(row)
        return row

    def shares(self) -> Iterator[Share]:
        """For each model that was also run with float32 activations, the share of the 8-bit activations."""
        for twin in self.rows:
            row = self.row(twin.variant_of) if twin.variant_of and twin.has_float32_activations else None
            if row and row.quality and twin.quality and row.quality.kl and twin.quality.kl:
                yield Share(row.name, row.quality.kl.value, twin.quality.kl.value)

    def as_dict(self) -> dict[str, Any]:
        """Everything, for JSON."""
        shares = [asdict(share) | {"activations": share.activations} for share in self.shares()]
        return {"report_format": FORMAT} | asdict(self) | {"kl_shares": shares}
