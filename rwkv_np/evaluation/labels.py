"""Labels in a plot, placed where they cover no other label and no point.

matplotlib places a text at a fixed position. Here each point's label takes the first free position of
several around the point, and labels at the ends of lines are moved apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.text import Annotation
from matplotlib.transforms import Bbox
from numpy.typing import ArrayLike

# Positions around a point, in points of 1/72 inch, the best first, with the label's alignment there.
PLACES = (
    (9, 0, "left", "center"), (-9, 0, "right", "center"), (0, 10, "center", "bottom"),
    (0, -10, "center", "top"), (9, 12, "left", "center"), (9, -12, "left", "center"),
    (-9, 12, "right", "center"), (-9, -12, "right", "center"), (9, 24, "left", "center"),
    (9, -24, "left", "center"), (-9, 24, "right", "center"), (-9, -24, "right", "center"),
)  # fmt: skip
POINT = 14  # diameter in points, including rings: labels keep away from it
LINE = 0.045  # distance between labels at the ends of lines, as a share of the axes' height
SIZE = 9


Line = tuple[tuple[float, float], tuple[float, float]]
"""A line from one position to another, in data coordinates."""


class Label(NamedTuple):
    """A text ("" for none), and the position in data coordinates that it labels."""

    text: str
    x: float
    y: float
    colour: str


def label_points(axes: Axes, labels: Sequence[Label], lines: Sequence[Line] = ()) -> None:
    """Label each point where there is room; labels also avoid the `lines` between points."""
    along = [np.linspace(start, end, 30) for start, end in lines]
    taken = [*_boxes(axes, [(label.x, label.y) for label in labels], POINT)]
    taken += [box for places in along for box in _boxes(axes, places, 2)]
    for label in labels:
        if label.text:
            taken.append(_label_point(axes, label, taken))


def _boxes(axes: Axes, places: ArrayLike, size: float) -> list[Bbox]:
    """A square of `size` points around each of several positions in data coordinates."""
    width = size * axes.figure.dpi / 72
    return [Bbox.from_bounds(x - width / 2, y - width / 2, width, width) for x, y in axes.transData.transform(places)]


def label_ends(axes: Axes, labels: Sequence[Label]) -> None:
    """Label lines to the right of their ends, in the order of the ends."""
    ends = sorted(labels, key=lambda label: label.y)
    heights = [axes.transAxes.inverted().transform(axes.transData.transform((e.x, e.y)))[1] for e in ends]
    for end, height in zip(ends, apart(heights)):
        axes.annotate(
            end.text, (end.x, end.y), xytext=(1.015, height), textcoords="axes fraction", fontsize=SIZE,
            va="center", color=end.colour, arrowprops={"arrowstyle": "-", "color": "#aaaaaa", "linewidth": 0.6},
        )  # fmt: skip


def apart(heights: Sequence[float]) -> list[float]:
    """Ascending heights, moved so that neighbours are LINE apart, and none is above 1 if there is room."""
    found: list[float] = []
    for height in heights:
        found.append(max(height, found[-1] + LINE) if found else height)
    for i in range(len(found) - 1, -1, -1):
        found[i] = min(found[i], 1.0 if i == len(found) - 1 else found[i + 1] - LINE)
    return found


def _label_point(axes: Axes, label: Label, taken: Sequence[Bbox]) -> Bbox:
    """Try all positions; use the first that is free and inside the axes, otherwise the very first."""
    names = [_annotate(axes, label, place) for place in PLACES]
    boxes = [name.get_window_extent() for name in names]
    free = [i for i, box in enumerate(boxes) if not any(box.overlaps(other) for other in taken)]
    inside = [i for i in free if axes.bbox.x0 < boxes[i].x0 and boxes[i].x1 < axes.bbox.x1]
    chosen = (inside or free or [0])[0]
    for i, name in enumerate(names):
        if i != chosen:
            name.remove()
    return boxes[chosen]


def _annotate(axes: Axes, label: Label, place: tuple[int, int, str, str]) -> Annotation:
    dx, dy, horizontal, vertical = place
    return axes.annotate(
        label.text, (label.x, label.y), xytext=(dx, dy), textcoords="offset points", color=label.colour,
        fontsize=SIZE, ha=horizontal, va=vertical,
    )  # fmt: skip
