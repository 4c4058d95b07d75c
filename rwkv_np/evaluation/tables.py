"""A report as tables: for a terminal in columns, for a document in Markdown, from one list of columns.

A value is shown with as many digits as its error allows; an unknown value is a dash.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from rwkv_np.evaluation.quality import Estimate, Quality
from rwkv_np.evaluation.report import Report, Row

UNKNOWN = "–"


def with_error(x: Estimate | None, scale: float = 1.0) -> str:
    """A figure and its error, to two digits of the error: 12.34 ± 0.56."""
    if x is None:
        return UNKNOWN
    value, error = scale * x.value, scale * x.error
    if not (math.isfinite(value) and math.isfinite(error)) or error == 0:
        return number(value)
    is_small, is_large = error < 1e-5 and abs(value) < 1e-3, max(abs(value), error) >= 1e9
    if is_small or is_large:
        exponent = math.floor(math.log10(max(abs(value), error)))
        digits = max(0, exponent - math.floor(math.log10(error)) + 1)
        return f"({value / 10**exponent:.{digits}f} ± {error / 10**exponent:.{digits}f})e{exponent}"
    digits = max(0, 1 - math.floor(math.log10(error)))
    return f"{value:.{digits}f} ± {error:.{digits}f}"


def number(x: float | None, digits: int = 3) -> str:
    """A figure with that number of significant digits."""
    if x is None:
        return UNKNOWN
    return f"{x:,.0f}" if 10**digits <= abs(x) < 1e9 else f"{x:.{digits}g}"


def _of_quality(show: Callable[[Quality], str]) -> Callable[[Row], str]:
    return lambda row: show(row.quality) if row.quality else UNKNOWN


def _megabytes(n_bytes: int | None) -> str:
    return UNKNOWN if n_bytes is None else f"{n_bytes / 1e6:,.1f}"


def _percent(share: float | None, digits: int = 0) -> str:
    return UNKNOWN if share is None else f"{100 * share:.{digits}f}"


@dataclass(frozen=True)
class Column:
    """A heading, and a function that shows a row's value; `is_brief` if it is shown in the terminal."""

    title: str
    show: Callable[[Row], str]
    is_brief: bool = True


def _point(name: str) -> Callable[[Quality], str]:
    return lambda quality: number(quality.kl_points[name]) if quality.kl_points else UNKNOWN


COLUMNS = (
    Column("model", lambda row: row.name),
    Column("MB", lambda row: _megabytes(row.cost.n_bytes if row.cost else None)),
    Column("bits/weight", lambda row: f"{row.cost.bits_per_weight:.2f}" if row.cost else UNKNOWN),
    Column("perplexity", _of_quality(lambda q: with_error(q.perplexity))),
    Column("ratio", _of_quality(lambda q: with_error(q.perplexity_ratio))),
    Column("correlation %", _of_quality(lambda q: _percent(q.correlation, 3)), False),
    Column("mean KL", _of_quality(lambda q: with_error(q.kl))),
    Column("KL 50 %", _of_quality(_point("50")), False),
    Column("90 %", _of_quality(_point("90")), False),
    Column("KL 99 %", _of_quality(_point("99"))),
    Column("99.9 %", _of_quality(_point("99.9")), False),
    Column("max", _of_quality(lambda q: number(q.kl_max)), False),
    Column("mean Δp %", _of_quality(lambda q: with_error(q.delta_p, 100)), False),
    Column("RMS Δp %", _of_quality(lambda q: with_error(q.delta_p_rms, 100))),
    Column("same top %", _of_quality(lambda q: with_error(q.same_top, 100))),
    Column("RssAnon MB", lambda row: _megabytes(row.cost.rss_anon if row.cost else None)),
    Column("of the model", lambda row: _megabytes(row.cost.rss_anon_model if row.cost else None), False),
    Column("decode/s", lambda row: number(row.cost.decode if row.cost else None)),
    Column("prompt/s", lambda row: number(row.cost.prefill if row.cost else None)),
    Column("bandwidth %", lambda row: _percent(row.cost.share if row.cost else None)),
    Column("last word %", lambda row: with_error(row.last_words.accuracy if row.last_words else None, 100)),
    Column("its perplexity", lambda row: with_error(row.last_words.perplexity if row.last_words else None)),
)


def cells(rows: Sequence[Row], brief: bool) -> list[list[str]]:
    """The headings, then one line per row; empty columns are left out."""
    columns = [column for column in COLUMNS if column.is_brief or not brief]
    table = [[column.title for column in columns], *([column.show(row) for column in columns] for row in rows)]
    filled = [i for i in range(len(columns)) if any(line[i] != UNKNOWN for line in table[1:])]
    return [[line[i] for i in filled] for line in table]


def terminal(report: Report, width: int = 200) -> str:
    """The table in aligned columns, and its conditions; columns beyond `width` continue below."""
    table = cells(report.rows, brief=True)
    parts = [_aligned([[line[i] for i in part] for line in table]) for part in _fitting(table, width)]
    return "\n\n".join([*parts, "\n".join(_notes(report))])


def _widths(table: Sequence[Sequence[str]]) -> list[int]:
    return [max(map(len, column)) for column in zip(*table)]


def _fitting(table: Sequence[Sequence[str]], width: int) -> list[list[int]]:
    """Which columns are shown together: the first one (the names), and as many others as fit."""
    widths = _widths(table)
    parts: list[list[int]] = [[0]]
    for i in range(1, len(widths)):
        if len(parts[-1]) > 1 and sum(widths[j] + 2 for j in parts[-1]) + widths[i] > width:
            parts.append([0])
        parts[-1].append(i)
    return parts


def _aligned(table: Sequence[Sequence[str]]) -> str:
    first, *widths = _widths(table)
    return "\n".join(
        "  ".join([name.ljust(first), *(cell.rjust(width) for cell, width in zip(others, widths))])
        for name, *others in table
    )


def markdown(report: Report) -> str:
    """The whole report as a document."""
    head, *lines = cells(report.rows, brief=False)
    rule = ["---", *["---:"] * (len(head) - 1)]
    table = ["| " + " | ".join(line) + " |" for line in (head, rule, *lines)]
    facts = [f"- {name}: {value}" for name, value in report.conditions.items() if value is not None]
    return "\n".join(["# What quantization costs", "", *table, "", *_notes(report), "", *facts, "", _DEFINITIONS])


def _notes(report: Report) -> list[str]:
    lines = [f"The baseline of all KL divergences (in nats), ratios and Δp is {report.base}."]
    if report.is_partial:
        lines.insert(0, "Interrupted: these are the results so far.")
    for share in report.shares():
        lines.append(
            f"{share.name}: mean KL {share.total:.3g}; with float32 activations {share.weights:.3g}, so that "
            f"the 8-bit activations add {share.activations:+.2g} ({100 * share.activations / share.total:+.1f} %)."
        )
    return lines


_DEFINITIONS = """\
Perplexity is e^(mean negative log-likelihood of the next token); ratio is the model's perplexity
divided by the baseline's. KL is the divergence of the model's distribution from the baseline's at each
position: mean, percentiles and maximum. Δp is the probability of the correct token minus its probability
under the baseline. Same top: how often both rank the same token first. ± is one standard error. RssAnon is
the memory of a process that loads only this model. Decode and prompt are tokens per second, with a prompt
of 128 tokens; bandwidth is the share of the memory bandwidth, measured just before, that decoding uses (of
the cache's, for a model that fits into it). Bits per weight count the whole file, including the FP16
embedding and head."""
