"""What is written in pictures: no text lies over another or is cut, with short and long names, at 0 and 100 %, for one model and six."""

import numpy as np
import pytest
import torch
from pictures import drawings, outside, overlaps, words

from robench.core.corruption_names import FIFTEEN, NINETEEN, SEVERITIES
from robench.core.rows import Row
from robench.report.figures.attacks import draw_accuracy_bars, draw_change_gallery, draw_security_curve
from robench.report.figures.classes import draw_confusions
from robench.report.figures.corruptions import draw_contact_sheet, draw_difference_map, draw_heat_map, draw_severity_curves
from robench.report.figures.saliency import (
    ErrorCurve,
    Tile,
    draw_bars,
    draw_histograms,
    draw_lorenz_curves,
    draw_noise_curves,
    draw_saliency_gallery,
    draw_scatter,
)
from robench.report.figures.style import caption_text
from robench.report.figures.training import FrontPoint, draw_front, draw_training_curves

LONG = "a-rather-long-name-of-a-checkpoint-that-somebody-trained-with-many-options-number-"
TITLE = f"autoattack-plus of {LONG}1.pt on npz:cifar10-lossless test, n = 1000, linf eps = 0.5/255, 1/255, 2/255, seed 0"
NAMES = ["cnn.pt", "b.pt", *(f"{LONG}{k}.pt" for k in range(4))]
CLASSES = ("American Staffordshire terrier, Staffordshire terrier, American pit bull terrier", "great white shark, man-eater, Carcharodon")
PROBES = ["apgd-ce", "my_attack.py:function_with_a_long_name", f"transfer:{LONG}2.pt", "fab-t", "square", "apgd-t", "autoattack-plus"]
RNG = np.random.default_rng(0)


def row(probe, value, eps=0.1, norm="linf"):
    return Row("m", "", "shapes", "test", 40, 0, norm, eps, probe, "", "accuracy", value, max(0.0, value - 0.1), min(1.0, value + 0.1))


def image(channels=3, side=8):
    return torch.rand(channels, side, side)


def tile(caption, changed=True):
    return Tile(caption, image(), image() - 0.5, *((image(), image() - 0.5, CLASSES[1]) if changed else ()))


def table(names, value):
    return {(name, severity): value for name in names for severity in SEVERITIES}


def history(epochs):
    terms = {"loss": 2.0, "sagr": 50.0, "a_regulariser_of_somebodys.py:function": 1e-4, "ce": 2.1}
    numbers = {
        "held_out_clean": 1.0,
        "held_out_robust": 0.0,
        "held_out_fgsm": 1.0,
        "held_out_attacked_clean": 0.5,
        "held_out_gradient_norm_of_the_input": 12345.6,
    }
    numbers |= {"held_out_n": 10_000, "held_out_attacked_n": 1000}
    return [{"epoch": e, "seconds": 1.0, "lr": 0.1 / (e + 1), "terms": terms, "weight_norm": 3e-9, **numbers} for e in range(epochs)]


def point(k):
    (clean, robust), label = RNG.random(2), f"lambda=0.{k},rho=0.3"
    return FrontPoint(f"series {k % 3}", label, (clean, clean - 0.05, clean + 0.05), (robust, robust - 0.05, robust + 0.05))


def noise(models, least):
    probes = {"inductive-noise": least, "inductive-noise-2": least, "random-noise": 10 * least, "random-noise-few": least}
    return [ErrorCurve(m, p, [(t * k, v, v, v) for k, v in ((1, 0), (3, 0.5), (10, 1))]) for m in models for p, t in probes.items()]


def groups(models):
    probes = ("inductive-occlusion-n5r10", "inductive-occlusion-n10r20", "random-occlusion-n5r10", "random-occlusion-n10r20")
    where = [f"{probe} {colour}" for probe in probes for colour in ("black", "grey", "white")]
    return [(name, [(model, value, value, value) for model, value in zip(models, (0, 1, 0.5, 0, 1, 0.3), strict=False)]) for name in where]


def ginis(models):
    return [(name, RNG.normal(0.5, 0.1, 60)) for name in models]


def lorenz(models):
    return [(name, np.linspace(0, 1, 9) ** 2, 0.3) for name in models]


def pair_panels(classes, panels):
    cells = {(label, other): 100 + label for label in range(classes) for other in (label, (label * 7 + 1) % classes)}
    return [("clean", cells), ("autoattack, linf 8/255", cells), ("autoattack, linf 16/255", cells)][:panels]


def class_words(label):
    return f"great white shark, Carcharodon {label}"


PICTURES = {
    "bars of one probe": lambda title: draw_accuracy_bars("x.png", [row("clean", 1.0, 0)], title),
    "bars of eight probes": lambda title: draw_accuracy_bars(
        "x.png", [row("clean", 1.0, 0), *(row(p, v) for p, v in zip(PROBES, (0.995, 0.5, 0.12, 0.09, 0.05, 0.004, 0), strict=True))], title
    ),
    "bars of nothing left": lambda title: draw_accuracy_bars("x.png", [row("clean", 1.0, 0), row("pgd-10", 0.0)], title),
    "radii": lambda title: draw_security_curve(
        "x.png", [row("clean", 1, 0), *(row(PROBES[2], v, e / 255) for e, v in ((0.5, 1), (8, 0), (64, 0)))], title
    ),
    "radii in l2": lambda title: draw_security_curve("x.png", [row("clean", 0, 0, "l2"), row("pgd", 0, 0.5, "l2")], title),
    "one example": lambda title: draw_change_gallery("x.png", image()[None], image()[None], [CLASSES], title),
    "eight examples": lambda title: draw_change_gallery("x.png", torch.rand(8, 3, 8, 8), torch.rand(8, 3, 8, 8), [CLASSES] * 8, title),
    "confusion of two classes": lambda title: draw_confusions("x.png", pair_panels(2, 1), class_words, title),
    "confusion of twenty classes": lambda title: draw_confusions("x.png", pair_panels(20, 3), class_words, title),
    "confusion of many classes": lambda title: draw_confusions("x.png", pair_panels(90, 3), class_words, title),
    "confusion of many classes, none confused": lambda title: draw_confusions(
        "x.png", [("clean", {(k, k): 1 for k in range(30)})], str, title
    ),
    "one map": lambda title: draw_saliency_gallery("x.png", [tile("crescent, taken for star", False)], title),
    "six maps": lambda title: draw_saliency_gallery("x.png", [tile(", taken for ".join(CLASSES))] * 6, title, "changed"),
    "noise of one model": lambda title: draw_noise_curves("x.png", noise(NAMES[:1], 0.002), title),
    "noise of six models": lambda title: draw_noise_curves("x.png", noise(NAMES, 1 / 3072), title),
    "occlusion of one model": lambda title: draw_bars("x.png", groups(NAMES[:1]), title),
    "occlusion of two models": lambda title: draw_bars("x.png", groups(NAMES[1:3]), title),
    "occlusion of six models": lambda title: draw_bars("x.png", groups(NAMES), title),
    "histogram of one model": lambda title: draw_histograms("x.png", ginis(NAMES[:1]), title),
    "histograms of two models": lambda title: draw_histograms("x.png", ginis(NAMES[1:3]), title),
    "histograms of six models": lambda title: draw_histograms("x.png", ginis(NAMES), title),
    "lorenz curve of one model": lambda title: draw_lorenz_curves("x.png", lorenz(NAMES[:1]), title),
    "lorenz curves of six models": lambda title: draw_lorenz_curves("x.png", lorenz(NAMES), title),
    "margins": lambda title: draw_scatter("x.png", RNG.normal(size=9), RNG.random(9), RNG.random(9) > 0.5, title, ("clean margin", "Gini")),
    "nineteen corruptions at 100 %": lambda title: draw_heat_map("x.png", table(NINETEEN, 1.0), 1.0, title),
    "one corruption at 0 %": lambda title: draw_heat_map("x.png", {("fog", 3): 0.0}, 0.0, title),
    "differences": lambda title: draw_difference_map("x.png", table(FIFTEEN, 1.0), table(FIFTEEN, 0.0), title, (1.0, 0.0)),
    "sheet": lambda title: draw_contact_sheet("x.png", dict.fromkeys(table(NINETEEN, 0), image(side=32)), image(side=32), title),
    "sheet of one": lambda title: draw_contact_sheet("x.png", {("fog", 3): image(1, 28)}, image(1, 28), title),
    "severities of six models": lambda title: draw_severity_curves("x.png", [(n, table(NINETEEN, 0.0), 1.0) for n in NAMES], title),
    "severities of one model": lambda title: draw_severity_curves("x.png", [(NAMES[2], table(["fog"], 0.0), 1.0)], title),
    "one epoch": lambda title: draw_training_curves("x.png", history(1), title, 1),
    "thirty epochs": lambda title: draw_training_curves("x.png", history(30), title, 17),
    "a sweep of one": lambda title: draw_front("x.png", [point(0)], title),
    "a sweep of eighteen": lambda title: draw_front("x.png", [point(k) for k in range(18)], title),
}


@pytest.mark.parametrize("title", ["short", TITLE], ids=["short", "long"])
@pytest.mark.parametrize("name", PICTURES)
def test_no_text_lies_over_another_or_is_cut(monkeypatch, name, title):
    figures = drawings(monkeypatch)
    PICTURES[name](title)
    texts = words(figures[0])
    assert overlaps(texts) == []
    assert outside(figures[0], texts) == []
    assert any(text.startswith(title[:8]) for text, _ in texts)


def test_numbers_stand_above_the_intervals_of_bars(monkeypatch):
    figures = drawings(monkeypatch)
    found = [row("clean", 1.0, 0), row("pgd-10", 0.0), row("pgd-20", 0.004), row("square", 0.5)]
    draw_accuracy_bars("x.png", found, "title")
    axes = figures[0].axes[0]
    places = {text: axes.transData.inverted().transform((0, box.y0))[1] for text, box in words(figures[0])}
    assert [places[f"{100 * one.value:.1f}"] > 100 * one.high for one in found] == [True] * 4


def test_a_gallery_says_by_how_much_each_difference_is_amplified(monkeypatch):
    figures = drawings(monkeypatch)
    x = torch.full((3, 1, 8, 8), 0.5)
    x_adv = x + torch.tensor([1 / 255, -0.25, 0.0]).view(3, 1, 1, 1)
    draw_change_gallery("x.png", x, x_adv, [("a", "b")] * 3, "title", "noise")
    grid = np.array(figures[0].axes).reshape(3, 3)
    assert [axes.get_title() for axes in grid[2]] == ["x 255", "x 4", "no change"]
    assert [axes.get_ylabel() for axes in grid[:, 0]] == ["clean", "noise", "difference,\namplified"]
    assert [float(axes.images[0].get_array()[0, 0]) for axes in grid[2]] == pytest.approx([1, 0, 0.5], abs=1e-4)


def test_captions_are_folded_and_of_long_ones_both_ends_are_drawn():
    assert caption_text("crescent, taken for star") == "crescent, taken\nfor star"
    lines = caption_text(", taken for ".join(CLASSES)).split("\n")
    assert (lines[0], lines[2], lines[-1], len(lines)) == ("American", "...", "Carcharodon", 4)
    assert all(len(line) <= 17 for line in lines)


def test_the_panels_of_noise_share_one_axis(monkeypatch):
    figures = drawings(monkeypatch)
    draw_noise_curves("x.png", noise(["m"], 0.002), "title")
    limits = {axes.get_xlim() for axes in figures[0].axes}
    assert len(limits) == 1
    low, high = limits.pop()
    assert low < 0.002
    assert high > 0.2


def test_more_than_three_histograms_stand_one_below_the_other(monkeypatch):
    figures = drawings(monkeypatch)
    draw_histograms("x.png", ginis(NAMES[:3]), "title")
    draw_histograms("x.png", ginis(NAMES), "title")
    assert [len(figure.axes) for figure in figures] == [1, 6]
    assert [axes.get_title(loc="left").split("  ")[0] for axes in figures[1].axes[:2]] == NAMES[:2]
    assert len({axes.get_xlim() for axes in figures[1].axes}) == 1
