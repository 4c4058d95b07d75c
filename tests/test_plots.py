"""A report's plots: the axes, labels that overlap nothing, and that something is drawn."""

import struct
from itertools import combinations

import numpy as np
import pytest

pytest.importorskip("matplotlib", reason="plots are an extra: pip install -e '.[plot]'")

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.text import Annotation

from rwkv_np.evaluation import plots
from rwkv_np.evaluation.cost import Cost
from rwkv_np.evaluation.labels import LINE, Label, apart, label_points
from rwkv_np.evaluation.quality import Estimate, Quality
from rwkv_np.evaluation.report import Report, Row

LOSSES = {"Q8_0": 1e-5, "Q5_1": 6.7e-5, "Q5_0": 3e-4, "Q4_1": 4.7e-4, "Q4_0": 9.3e-4}
BITS = {"FP16": 16.2, "Q8_0": 9.5, "Q5_1": 7.27, "Q5_0": 6.82, "Q4_1": 6.38, "Q4_0": 5.93}


def row(name, kl=None, variant_of=None, decode=None, **fields):
    model = variant_of or name
    quality = Quality(1000, Estimate(30.0, 1.0), kl=Estimate(kl, kl / 50) if kl else None)
    runs = [(i * 100, i * 100 + 100, kl * (1 + i % 3)) for i in range(10)] if kl else []
    cost = Cost(10**6, BITS[model], decode=decode)
    fields |= dict(cost=cost, quality=quality, kl_by_position=runs)
    return Row(name, f"{name}.bin", model, "FP16", variant_of, **fields)


def report(*, timed=True, variants=True):
    rows = [row("FP16", decode=100.0 if timed else None)]
    if variants:
        rows.append(row("FP16, Q8_0 head", 6e-5, "FP16", 120.0 if timed else None))
    for name, kl in LOSSES.items():
        rate = 100 * 16 / BITS[name] if timed else None
        rows.append(row(name, kl, decode=rate))
        if variants:
            rows.append(row(f"{name}, FP16 head", kl + 5e-5, name, rate and 1.2 * rate))
            rows.append(row(f"{name}, float32 activations", 0.9 * kl, name, has_float32_activations=True))
    return Report("FP16", {}, rows)


def axes_of(name, **options):
    figure = Figure(figsize=(7.5, 5), dpi=plots.DOTS_PER_INCH, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    set_names = plots.PLOTS[name](axes, report(**options))
    figure.draw_without_rendering()
    set_names()
    figure.draw_without_rendering()
    return axes


def names_in(axes):
    return [child for child in axes.get_children() if isinstance(child, Annotation)]


@pytest.mark.parametrize(
    "name, x, y",
    [
        ("quality-bits", "bits per weight", "nats"),
        ("speed-quality", "tokens per second", "nats"),
        ("kl-position", "position in the text, tokens", "nats"),
    ],
)
def test_axes_say_what_they_show_and_in_which_unit(name, x, y):
    axes = axes_of(name)
    assert x in axes.get_xlabel() and y in axes.get_ylabel() and axes.get_yscale() == "log"
    assert axes.get_title(loc="left") and any("compared with FP16" in text.get_text() for text in axes.texts)


@pytest.mark.parametrize("name", plots.PLOTS)
@pytest.mark.parametrize("variants", [False, True])
def test_every_model_is_named_once_and_no_two_names_meet(name, variants):
    names = names_in(axes_of(name, variants=variants))
    wanted = {*LOSSES, *({"FP16, Q8_0 head"} if variants and name != "quality-bits" else set())}
    assert sorted(text.get_text() for text in names) == sorted(wanted)
    # An annotation's own extent includes its arrow; only the text is needed.
    boxes = [super(Annotation, text).get_window_extent() for text in names]
    assert not any(a.overlaps(b) for a, b in combinations(boxes, 2))


def test_models_differ_in_colour_and_in_marker():
    found = report()
    styles = [plots._style(found, row) for row in found.rows if row.variant_of is None and row.name != "FP16"]
    colours, markers = zip(*styles)
    assert len(set(colours)) == len(set(markers)) == len(LOSSES)
    model, head, float32 = (plots._style(found, found.row(f"Q4_1{end}")) for end in
                            ("", ", FP16 head", ", float32 activations"))  # fmt: skip
    assert model == head == float32


def test_many_close_points_find_room_for_their_names():
    figure = Figure(figsize=(7.5, 5), dpi=100)
    FigureCanvasAgg(figure)
    axes = figure.subplots()
    labels = [Label(f"model {i}", 0.5 + i / 200, 0.5 + i / 300, "black") for i in range(6)]
    axes.set(xlim=(0, 1), ylim=(0, 1))
    figure.draw_without_rendering()
    label_points(axes, labels)
    boxes = [text.get_window_extent() for text in names_in(axes)]
    assert len(boxes) == 6 and not any(a.overlaps(b) for a, b in combinations(boxes, 2))


@pytest.mark.parametrize("heights", [[0.5, 0.5, 0.5], [0.0, 0.0, 0.01], [0.98, 0.99, 1.0], [0.0, 0.5, 1.0], []])
def test_names_at_the_ends_of_lines_stand_apart(heights):
    found = apart(heights)
    assert len(found) == len(heights) and all(b - a >= LINE - 1e-9 for a, b in zip(found, found[1:]))
    assert all(0 <= x <= 1 for x in found)


def test_pictures_are_drawn_each_alone_and_all_in_one(tmp_path):
    paths = plots.draw(report(), tmp_path)
    assert {path.name for path in paths} == {"quality-bits.png", "speed-quality.png", "kl-position.png", "report.png"}
    for path in paths:
        width, height = struct.unpack(">II", path.read_bytes()[16:24])
        pixels = imread(path)
        assert pixels.shape[:2] == (height, width) and min(width, height) > 500
        # Something is drawn in the models' colours.
        first = np.array([int(plots.COLOURS[1][i : i + 2], 16) / 255 for i in (1, 3, 5)])
        assert (np.abs(pixels[..., :3] - first).max(axis=2) < 0.02).sum() > 50


def test_what_is_not_known_is_not_drawn(tmp_path):
    names = {path.name for path in plots.draw(report(timed=False), tmp_path)}
    assert names == {"quality-bits.png", "kl-position.png", "report.png"}
    assert plots.draw(Report("FP16", {}, [row("FP16")]), tmp_path) == []


def test_the_frontier_has_what_nothing_smaller_is_better_than():
    points = [(5.0, 3.0), (4.0, 9.0), (6.0, 4.0), (8.0, 1.0), (5.0, 2.5), (4.5, 9.5)]
    assert plots.frontier(points) == [(4.0, 9.0), (5.0, 2.5), (8.0, 1.0)]


def test_the_frontier_is_drawn_through_the_best_models():
    (line,) = [line for line in axes_of("quality-bits").lines if line.get_label() == "frontier"]
    assert list(zip(*line.get_data())) == sorted((BITS[name], kl) for name, kl in LOSSES.items())
