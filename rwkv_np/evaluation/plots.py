"""A report as plots: quality against bits, quality against speed, and KL divergence along the text.

The colours are those of Okabe and Ito, which readers with any colour vision can distinguish. Every model
also has its own marker; a variant has the marker of its model, as a ring. Points and lines are labelled
directly (`labels.py`), so there is no legend. KL divergences span decades, so their axis is logarithmic.
The base has a divergence of 0, so it is named in the title instead.

Only this module and `labels.py` import matplotlib, an optional package (extra `plot`).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from rwkv_np.errors import PathLike
from rwkv_np.evaluation.labels import Label, Line, label_ends, label_points
from rwkv_np.evaluation.quality import Estimate
from rwkv_np.evaluation.report import Report, Row
from rwkv_np.files.output import new_file

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
MARKERS = "osD^vPX"
DOTS_PER_INCH = 130

Drawer = Callable[[Axes, Report], Callable[[], None]]
"""Draws into axes, and returns a function that places the labels after the layout is done."""


def draw(report: Report, folder: PathLike) -> list[Path]:
    """Write each plot, and all of them in report.png; plots without data are left out."""
    drawers = {name: drawer for name, drawer in PLOTS.items() if _is_known(report, name)}
    paths = [_save(report, {name: drawers[name]}, [[name]], Path(folder) / f"{name}.png") for name in drawers]
    if len(drawers) > 1:
        above = [name for name in drawers if name != "kl-position"]
        mosaic = [above, ["kl-position"] * len(above)]
        paths.append(_save(report, drawers, mosaic, Path(folder) / "report.png"))
    return paths


def quality_against_bits(axes: Axes, report: Report) -> Callable[[], None]:
    """Mean KL divergence over bits per weight, and the best of each size; rings mark float32 activations."""
    rows = [row for row in _measured(report) if row.variant_of is None or row.has_float32_activations]
    bits = [row.cost.bits_per_weight if row.cost else 0.0 for row in rows]
    labels, lines = _points(axes, report, rows, bits)
    models = [(x, _kl(row).value) for x, row in zip(bits, rows) if row.variant_of is None]
    axes.plot(*zip(*frontier(models)), color="#999999", linewidth=1, zorder=0, label="frontier")
    axes.set_xlabel("bits per weight, of the whole file")
    has_rings = any(row.has_float32_activations for row in rows)
    _title(axes, "Quality against size", report, "; rings: float32 activations" if has_rings else "")
    return lambda: label_points(axes, labels, lines)


def frontier(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """The points (size, loss) to which no other one is better in both, by size."""
    found: list[tuple[float, float]] = []
    for x, y in sorted(points):
        if not found or y < found[-1][1]:
            found.append((x, y))
    return found


def quality_against_speed(axes: Axes, report: Report) -> Callable[[], None]:
    """Mean KL divergence over tokens decoded per second; rings mark the other head type."""
    rows = [row for row in _measured(report) if row.cost and row.cost.decode]
    rates = [row.cost.decode or 0.0 for row in rows if row.cost]
    labels, lines = _points(axes, report, rows, rates)
    axes.set_xlim(0, 1.3 * max(rates))
    axes.set_xlabel("decoding, tokens per second (faster to the right)")
    base = report.row(report.base)
    facts = f"; {report.base} decodes {base.cost.decode:,.0f}/s" if base and base.cost and base.cost.decode else ""
    has_rings = any(row.variant_of for row in rows)
    _title(axes, "Quality against speed", report, facts + ("; rings: the other head" if has_rings else ""))
    return lambda: label_points(axes, labels, lines)


def kl_over_position(axes: Axes, report: Report) -> Callable[[], None]:
    """Mean KL divergence along the text."""
    rows = [row for row in _measured(report) if row.kl_by_position and row.variant_of in (None, report.base)]
    labels = []
    for row in rows:
        colour, marker = _style(report, row)
        xs = [(start + end) / 2 for start, end, _ in row.kl_by_position]
        ys = [kl for *_, kl in row.kl_by_position]
        axes.plot(xs, ys, color=colour, marker=marker, markersize=4, linewidth=1.2)
        labels.append(Label(row.name, xs[-1], ys[-1], colour))
    axes.set_yscale("log")
    axes.margins(x=0.01)
    axes.set_xlabel("position in the text, tokens")
    axes.set_ylabel("mean KL divergence, nats")
    _title(axes, "Along the text", report)
    return lambda: label_ends(axes, labels)


# The labels at the ends of lines are outside the axes and make them narrower, so this plot comes first.
PLOTS: dict[str, Drawer] = {
    "kl-position": kl_over_position,
    "quality-bits": quality_against_bits,
    "speed-quality": quality_against_speed,
}


def _measured(report: Report) -> list[Row]:
    """The rows whose KL divergence a logarithmic axis can show."""
    return [row for row in report.rows if row.quality and row.quality.kl and row.quality.kl.value > 0]


def _is_known(report: Report, name: str) -> bool:
    rows = _measured(report)
    return bool(rows) and (name != "speed-quality" or any(row.cost and row.cost.decode for row in rows))


def _save(report: Report, drawers: dict[str, Drawer], mosaic: list[Any], path: Path) -> Path:
    """Write the plots. pyplot is not used: it would keep figures and choose a backend for the whole process."""
    size = (7.5 * len(mosaic[0]), 5 * len(mosaic))
    figure = Figure(figsize=size, dpi=DOTS_PER_INCH, layout="constrained")
    FigureCanvasAgg(figure)
    plots = figure.subplot_mosaic(mosaic)
    for set_names in [drawer(_plain(plots[name]), report) for name, drawer in drawers.items()]:
        figure.draw_without_rendering()
        set_names()
    with new_file(path, overwrite=True) as file:
        figure.savefig(file, format=path.suffix[1:])
    return path


def _plain(axes: Axes) -> Axes:
    """Draw a faint grid, and no frame at the top and right."""
    axes.grid(True, which="major", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    return axes


def _style(report: Report, row: Row) -> tuple[str, str]:
    """A model's colour and marker, which its variants share; the base's variants have their own."""
    models = [other.name for other in report.rows if other.name != report.base and not other.variant_of]
    names = [report.base, *models]
    number = names.index(row.variant_of or row.name) - 1
    return COLOURS[number % len(COLOURS)], MARKERS[number % len(MARKERS)]


def _title(axes: Axes, title: str, report: Report, more: str = "") -> None:
    axes.set_title(title, loc="left", fontsize=11, fontweight="bold", pad=20)
    below = f"compared with {report.base}, whose KL divergence is 0{more}"
    axes.text(0, 1.02, below, transform=axes.transAxes, fontsize=9, color="#444444")


def _points(axes: Axes, report: Report, rows: Sequence[Row], xs: Sequence[float]) -> tuple[list[Label], list[Line]]:
    """Draw a point with error for each row (y: mean KL divergence), and a line from model to variant."""
    labels, lines, models = [], [], {row.name: (row, x) for row, x in zip(rows, xs)}
    for row, x in zip(rows, xs):
        (colour, marker), kl = _style(report, row), _kl(row)
        ring = {"markersize": 12, "markerfacecolor": "none"} if row.variant_of else {"markersize": 7}
        axes.errorbar(x, kl.value, yerr=kl.error, color=colour, marker=marker, capsize=3, linewidth=1, **ring)
        if row.variant_of in models:
            model, model_x = models[row.variant_of]
            lines.append(((model_x, _kl(model).value), (x, kl.value)))
            axes.plot(*zip(*lines[-1]), color=colour, linewidth=0.8, linestyle=":")
        labels.append(Label("" if row.variant_of in models else row.name, x, kl.value, colour))
    axes.set_yscale("log")
    axes.margins(x=0.2, y=0.12)
    axes.set_ylabel("mean KL divergence, nats (lower is better)")
    return labels, lines


def _kl(row: Row) -> Estimate:
    assert row.quality and row.quality.kl
    return row.quality.kl
