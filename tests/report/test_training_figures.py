"""The log, the curves and the front of trainings: what is written and drawn is what was given, and odd numbers do no harm."""

import math

import matplotlib as mpl
import numpy as np
import pytest
from commandline import read
from matplotlib.colors import to_hex
from matplotlib.image import imread
from pictures import legend

from robench.core.errors import InputError
from robench.report.figures import training
from robench.report.figures.saliency import MODEL_COLOURS
from robench.report.figures.style import HOUSE
from robench.report.figures.training import (
    EDGE,
    FrontPoint,
    draw_front,
    draw_training_curves,
    lies_within,
    overlaps,
    spans_decades,
    training_panels,
    write_epoch_log,
)

HOSTILE = ["", "_hidden", "$x^$", "a\nb\tc", "<b>&amp;", "%s {0}", "\u6a21\u578b", "w" * 300, "\udcff", "\\frac{1}"]


@pytest.fixture
def drawn(monkeypatch):
    """The figures that were to be written."""
    figures = []
    monkeypatch.setattr(training, "save_figure", lambda path, figure: figures.append(figure) or path)
    monkeypatch.setattr(training, "save_titled_figure", lambda path, figure, axes, title: figures.append(figure) or path)
    return figures


def epochs(n=3, **more):
    return [
        {
            "epoch": e, "seconds": 1.5, "lr": 0.1 / (e + 1), "terms": {"loss": 2.0 / (e + 1), "sagr": 50.0 / (e + 1)},
            "held_out_clean": min(1.0, 0.5 + 0.1 * e), "held_out_robust": min(1.0, 0.2 + 0.1 * e), **more,
        }
        for e in range(n)
    ]  # fmt: skip


def titles(figure):
    return [axes.get_title(loc="left") for axes in figure.axes]


def data(line):
    return [list(values) for values in line.get_data()]


def test_the_log_has_a_line_an_epoch_from_one_with_terms_after_held_out_numbers(tmp_path):
    path = write_epoch_log(tmp_path / "log.csv", epochs(2, steps_done=7, held_out_margin=0.25, alarm=""))
    found = read(path)
    assert list(found[0]) == [
        "epoch", "seconds", "lr", "held_out_clean", "held_out_robust", "held_out_margin", "steps_done", "loss", "sagr", "alarm",
    ]  # fmt: skip
    assert [line["epoch"] for line in found] == ["1", "2"]
    assert [float(line["sagr"]) for line in found] == [50.0, 25.0]
    assert [line["held_out_margin"] for line in found] == ["0.25", "0.25"]


def test_what_an_epoch_lacks_is_empty_and_numbers_come_back_as_they_were(tmp_path):
    history = epochs(2)
    history[0] |= {"held_out_robust": math.nan, "terms": {"loss": 0.1 + 0.2}}
    history[1] |= {"held_out_robust": None, "held_out_margin": math.inf}
    found = read(write_epoch_log(tmp_path / "log.csv", history))
    assert [line["held_out_robust"] for line in found] == ["", ""]
    assert [line["held_out_margin"] for line in found] == ["", "inf"]
    assert found[0]["sagr"] == ""
    assert float(found[0]["loss"]) == 0.1 + 0.2


def test_a_term_with_the_name_of_a_column_keeps_its_own_column(tmp_path):
    history = epochs(1)
    history[0]["terms"]["lr"] = 5.0
    found = read(write_epoch_log(tmp_path / "log.csv", history))[0]
    assert (found["lr"], found["terms/lr"]) == ("0.1", "5.0")


def test_the_log_of_no_epoch_is_its_head(tmp_path):
    assert write_epoch_log(tmp_path / "log.csv", []).read_text() == "epoch,seconds,lr\n"


def test_the_log_is_written_whole_or_not_at_all(tmp_path, monkeypatch):
    path = write_epoch_log(tmp_path / "log.csv", epochs(1))
    before = path.read_bytes()
    (tmp_path / "dir.csv").mkdir()
    with pytest.raises(InputError, match=r"dir.csv is a folder, and no place for a file"):
        write_epoch_log(tmp_path / "dir.csv", epochs(2))
    assert path.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["dir.csv", "log.csv"]


def test_every_kind_of_number_has_its_panel(drawn):
    draw_training_curves("x.png", epochs(3, held_out_margin=0.5, held_out_fgsm=0.4, held_out_weight_norm=3.0), "title", chosen=2)
    figure = drawn[0]
    assert titles(figure) == [
        "terms of the loss", "held-out accuracy (%)", "learning rate", "margin, held-out images", "weight norm, held-out images",
    ]  # fmt: skip
    assert legend(figure.axes[0]) == ["loss", "sagr"]
    assert legend(figure.axes[1]) == ["clean", "FGSM", "PGD-10"]
    assert data(figure.axes[1].lines[2]) == [[1, 2, 3], pytest.approx([20, 30, 40])]
    assert figure.axes[1].get_ylim() == (0, 100)
    assert all(list(axes.lines[-1].get_xdata()) == [2, 2] for axes in figure.axes)
    assert "epoch 2" in figure.get_supxlabel()


def test_the_accuracies_of_the_attacked_images_stand_beside_their_own_clean_accuracy():
    history = epochs(3, held_out_attacked_clean=0.9, held_out_n=500, held_out_attacked_n=200)
    panels = {panel.label: panel for panel in training_panels(history)}
    assert list(panels) == ["terms of the loss", "held-out accuracy (%)", "learning rate"]
    assert list(panels["held-out accuracy (%)"].lines) == ["clean, n = 500", "clean, n = 200", "PGD-10, n = 200"]
    assert panels["held-out accuracy (%)"].lines["clean, n = 200"] == [(1, 0.9), (2, 0.9), (3, 0.9)]
    same = training_panels([epoch | {"held_out_n": 200} for epoch in history])[1]
    assert list(same.lines) == ["clean, n = 200", "PGD-10, n = 200"]


def test_what_is_not_finite_is_left_out_and_the_line_goes_on():
    history = epochs(4, held_out_margin=math.nan, held_out_weight_norm=None)
    history[1]["held_out_robust"], history[2]["terms"]["loss"] = math.nan, math.inf
    panels = {panel.label: panel for panel in training_panels(history)}
    assert list(panels) == ["terms of the loss", "held-out accuracy (%)", "learning rate"]
    assert [at for at, _ in panels["held-out accuracy (%)"].lines["PGD-10"]] == [1, 3, 4]
    assert [at for at, _ in panels["terms of the loss"].lines["loss"]] == [1, 2, 4]


def test_a_training_without_held_out_images_has_no_panel_of_accuracies():
    history = [epoch | {"held_out_clean": math.nan, "held_out_robust": math.nan} for epoch in epochs()]
    assert [panel.label for panel in training_panels(history)] == ["terms of the loss", "learning rate"]


@pytest.mark.parametrize(
    ("values", "expected"),
    [([1.0, 10.0], True), ([1.0, 9.0], False), ([-0.1, 1.0, 100.0], False), ([0.0, 1.0, 100.0], True), ([0.0], False), ([], False)],
)
def test_the_loss_is_logarithmic_where_it_spans_a_factor_of_ten_and_is_never_negative(values, expected):
    assert spans_decades(values) is expected


def test_the_scale_of_the_loss_follows_its_terms(drawn):
    few = [epoch | {"terms": {"loss": 1.0, "margin": -20.0}} for epoch in epochs()]
    draw_training_curves("x.png", epochs(), "title")
    draw_training_curves("x.png", few, "title")
    assert [figure.axes[0].get_yscale() for figure in drawn] == ["log", "linear"]


def test_one_epoch_is_drawn_as_dots_at_one(drawn):
    draw_training_curves("x.png", epochs(1), "title")
    axes = drawn[0].axes[0]
    assert data(axes.lines[0]) == [[1], [2.0]]
    assert axes.lines[0].get_marker() == "o"
    assert list(axes.get_xticks()) == [1]


def test_curves_of_no_epoch_are_refused():
    with pytest.raises(InputError, match="at least one epoch"):
        draw_training_curves("x.png", [], "title")


def test_any_name_can_be_drawn_and_the_settings_of_matplotlib_stay(tmp_path):
    before = {name: mpl.rcParams[name] for name in HOUSE}
    history = [epoch | {"terms": {name: 3.0**place for place, name in enumerate(HOSTILE)}} for epoch in epochs(50)]
    image = imread(draw_training_curves(tmp_path / "curves.png", history, HOSTILE[-3] + HOSTILE[2], chosen=1))
    assert 600 < image.shape[1] < 2600
    points = [point(0.1 * place, 0.5, name, name) for place, name in enumerate(HOSTILE)]
    image = imread(draw_front(tmp_path / "front.png", points, HOSTILE[-3] + HOSTILE[2], robust="$a$"))
    assert 600 < image.shape[1] < 2600
    assert {name: mpl.rcParams[name] for name in HOUSE} == before


def point(clean, robust, series="", label=""):
    return FrontPoint(series, label, (clean, clean - 0.05, clean + 0.04), (robust, robust - 0.03, robust + 0.02))


def dots(axes):
    """The dots as (x, y, filled), in the order in which they were drawn."""
    drawn = [line for line in axes.lines if line.get_marker() not in ("", "None", None) and line.get_linestyle() == "None"]
    return [(float(a.get_xdata()[0]), float(a.get_ydata()[0]), to_hex(a.get_markerfacecolor()) != "#ffffff") for a in drawn]


def test_dots_are_full_on_the_front_and_hollow_off_it(drawn):
    draw_front("x.png", [point(0.9, 0.1), point(0.7, 0.2), point(0.8, 0.3), point(0.5, 0.5)], "title")
    assert dots(drawn[0].axes[0]) == [(90, 10, True), (70, 20, False), (80, 30, True), (50, 50, True)]


def test_the_steps_hold_the_best_robust_accuracy_at_no_less_clean_accuracy(drawn):
    draw_front("x.png", [point(0.9, 0.1), point(0.7, 0.2), point(0.8, 0.3), point(0.5, 0.5)], "title")
    steps = next(line for line in drawn[0].axes[0].lines if line.get_color() == EDGE)
    assert steps.get_drawstyle() == "steps-pre"  # between two corners the height is that of the right one
    assert data(steps) == [[-1, 50, 80, 90, 90], [50, 50, 30, 10, -1]]


def test_intervals_are_drawn_from_low_to_high(drawn):
    draw_front("x.png", [point(0.9, 0.1)], "title")
    spans = [bars.get_segments()[0] for bars in drawn[0].axes[0].collections]
    np.testing.assert_allclose(spans, [[[85, 10], [94, 10]], [[90, 7], [90, 12]]])


def test_each_series_has_its_colour_its_own_steps_and_a_place_in_the_legend(drawn):
    points = [point(0.9, 0.1, "rho 1"), point(0.8, 0.2, "rho 1"), point(0.7, 0.15, "rho 10"), point(0.6, 0.18, "rho 10")]
    draw_front("x.png", points, "title", robust="autoattack")
    axes = drawn[0].axes[0]
    assert legend(axes) == ["rho 1", "rho 10", "front (hollow: dominated)"]
    own = [line for line in axes.lines if line.get_drawstyle() == "steps-pre" and line.get_color() != EDGE]
    assert [(line.get_color(), data(line)) for line in own] == [
        (MODEL_COLOURS[0], [pytest.approx([80, 90]), pytest.approx([20, 10])]),
        (MODEL_COLOURS[1], [pytest.approx([60, 70]), pytest.approx([18, 15])]),
    ]
    assert axes.get_ylabel() == "autoattack accuracy (%)"


def boxes(figure):
    """What the labels take up, as drawn, in pixels: (left, low, right, high)."""
    renderer = figure.canvas.get_renderer()
    return [tuple(text.get_window_extent(renderer).extents) for text in figure.axes[0].texts]


def test_labels_stand_inside_the_axes_apart_from_each_other(tmp_path, monkeypatch):
    figures = []
    monkeypatch.setattr(training, "save_titled_figure", lambda path, figure, axes, title: figures.append(figure) or path)
    draw = np.random.default_rng(0)
    points = [point(*draw.uniform(0.4, 0.6, 2), f"rho {k % 3}", f"lambda {k / 10:g}") for k in range(40)]
    draw_front(tmp_path / "x.png", points, "title")
    training.save_figure(tmp_path / "x.png", figures[0])
    found = boxes(figures[0])
    frame = tuple(figures[0].axes[0].bbox.extents)
    assert len(found) > 15
    assert all(lies_within(box, tuple(np.add(frame, (-2, -2, 2, 2)))) for box in found)
    shrunk = [tuple(np.add(box, (1, 2, -1, -2))) for box in found]
    assert not any(overlaps(a, b) for k, a in enumerate(shrunk) for b in shrunk[:k])


def test_labels_of_the_front_come_first(drawn):
    crowd = [point(0.5 - k / 1e4, 0.5 - k / 1e4, "", f"dominated {k}") for k in range(30)]
    draw_front("x.png", [*crowd, point(0.5001, 0.5001, "", "best")], "title")
    texts = [text.get_text() for text in drawn[0].axes[0].texts]
    assert texts[0] == "best"
    assert len(texts) < 31


def test_points_without_a_number_are_left_out_and_none_at_all_is_no_error(drawn, tmp_path):
    draw_front("x.png", [point(math.nan, 0.1, "a"), point(0.5, math.nan, "b"), point(0.5, 0.5, "c")], "title")
    assert dots(drawn[0].axes[0]) == [(50, 50, True)]
    draw_front("x.png", [point(math.nan, math.nan)], "title")
    draw_front("x.png", [], "title")
    assert dots(drawn[2].axes[0]) == []
    assert drawn[2].axes[0].get_xlim()[1] > 90
