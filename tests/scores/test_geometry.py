"""Row norms, margins, linearised distances and alignment against closed forms and the Jacobian written out."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor, nn
from torch.func import jacrev, vmap

from robench.core.draws import Draws
from robench.core.errors import InputError
from robench.core.types import ExplainedImages
from robench.scores.geometry import alignment, jacobian_geometry


class Cut(nn.Module):
    """Gives no gradient to its input."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x.detach()).detach()


class Patched(nn.Module):
    """Passes the logits of a model through a function of them and of x."""

    def __init__(self, model: nn.Module, change) -> None:
        super().__init__()
        self.model, self.change = model, change

    def forward(self, x: Tensor) -> Tensor:
        return self.change(self.model(x), x)


def explained(x: Tensor, maps: Tensor) -> ExplainedImages:
    y = torch.zeros(len(x), dtype=torch.int64)
    return ExplainedImages(nn.Identity(), x, y, y, torch.zeros(len(x), 2), maps, maps.abs(), lambda *_: maps, Draws(0, y, "test"))


def jacobian_of(model: nn.Module, x: Tensor) -> Tensor:
    """The Jacobian of each image, (B, K, D) float64."""
    model, x = model.double(), x.double()
    found = vmap(jacrev(lambda image: model(image[None])[0]))(x).flatten(2).detach()
    model.float()
    return found


def other_labels(y: Tensor, classes: int) -> Tensor:
    """Labels of which about half are wrong."""
    return (y + torch.arange(len(y)) % 2) % classes


def close(found: Tensor, expected: Tensor, tolerance: float = 1e-5) -> None:
    torch.testing.assert_close(found, expected.double(), rtol=tolerance, atol=tolerance)


def test_the_effective_margin_of_an_affine_model_is_the_l2_distance_to_its_boundary(problem):
    images = problem("affine")  # far from the box, so that the box does not matter
    found = jacobian_geometry(images.model, images.x, images.y)
    close(found["effective-margin"], images.distances("l2"), 1e-4)
    close(found["effective-margin-min"], images.distances("l2"), 1e-4)


def test_all_scores_of_a_linear_model_have_their_closed_forms(problem):
    images = problem("linear", n=60)
    with torch.no_grad():  # rows of different lengths: the runner-up is not always the nearest
        sizes = torch.tensor([1.0, 4.0, 1.0, 0.2, 2.0])
        images.model.w *= sizes[:, None, None, None]
        images.model.b *= sizes
        logits = images.model(images.x).double()
    right = logits.argmax(1)
    w, x, y = images.model.w.detach().double().flatten(1), images.x.double(), other_labels(right, 5)
    found = jacobian_geometry(images.model, images.x, y)
    for i, label in enumerate(y.tolist()):
        rest = [c for c in range(5) if c != label]
        distances = {c: ((logits[i, label] - logits[i, c]) / (w[label] - w[c]).norm()).item() for c in rest}
        runner = max(rest, key=lambda c: logits[i, c].item())
        inner = (x[i].flatten() @ w[label]).item()
        expected = {
            "row-norm-true": w[label].norm().item(),
            "row-norm-mean": w[rest].norm(dim=1).mean().item(),
            "margin": (logits[i, label] - logits[i, runner]).item(),
            "effective-margin": distances[runner],
            "effective-margin-min": min(distances.values()),
            "slope-alignment": abs(inner) / w[label].norm().item(),
        }
        assert {name: score[i].item() for name, score in found.items()} == pytest.approx(expected, rel=1e-4, abs=1e-5)
    wrong = y != right
    assert (found["margin"][wrong] < 0).all()
    assert (found["effective-margin-min"][~wrong] > 0).all()
    assert (found["effective-margin-min"] < found["effective-margin"])[~wrong].any()


def test_moving_a_linear_model_s_image_by_the_least_distance_reaches_the_boundary(problem):
    images = problem("linear")
    least = jacobian_geometry(images.model, images.x, images.y)["effective-margin-min"]
    w = images.model.w.detach()
    for factor, held in ((0.999, True), (1.001, False)):
        kept = torch.ones(len(images.x), dtype=torch.bool)
        for other in range(5):
            away = w[other] - w[images.y]
            length = away.flatten(1).norm(dim=1).clamp_min(1e-9)
            moved = images.x + (factor * least / length).float()[:, None, None, None] * away
            kept &= images.model(moved).argmax(1) == images.y
        assert kept.all() if held else not kept.any()


def test_scores_of_a_network_are_those_of_its_jacobian(problem):
    images = problem("convolutional")
    y = other_labels(images.y, 10)
    rows, logits = jacobian_of(images.model, images.x), images.model(images.x).detach().double()
    found = jacobian_geometry(images.model, images.x, y)
    index = torch.arange(len(y))
    own, gaps = rows[index, y], logits[index, y][:, None] - logits
    distances = gaps / (own[:, None] - rows).norm(dim=2)
    distances[index, y] = math.inf
    close(found["row-norm-true"], own.norm(dim=1))
    close(found["row-norm-mean"], (rows.norm(dim=2).sum(1) - own.norm(dim=1)) / 9)
    close(found["effective-margin-min"], distances.amin(1), 1e-4)
    flat = images.x.double().flatten(1)
    close(found["slope-alignment"], (flat * own).sum(1).abs() / own.norm(dim=1))


def test_a_term_common_to_all_logits_moves_row_norms_but_no_margin(problem):
    images = problem("convolutional")
    shifted = Patched(images.model, lambda logits, x: logits + 3 * x.square().flatten(1).sum(1, keepdim=True))
    before, after = jacobian_geometry(images.model, images.x, images.y), jacobian_geometry(shifted, images.x, images.y)
    for name in ("margin", "effective-margin", "effective-margin-min"):
        close(after[name], before[name], 1e-3)
    assert (after["row-norm-true"] > 2 * before["row-norm-true"]).all()


def test_scaling_the_logits_scales_norms_and_margins_and_leaves_distances_and_alignment(problem):
    images = problem("dense")
    scaled = Patched(images.model, lambda logits, x: 1e-4 * logits)
    before, after = jacobian_geometry(images.model, images.x, images.y), jacobian_geometry(scaled, images.x, images.y)
    for name in ("effective-margin", "effective-margin-min", "slope-alignment"):
        close(after[name], before[name], 1e-4)
    for name in ("row-norm-true", "row-norm-mean", "margin"):
        close(1e4 * after[name], before[name], 1e-4)


def test_neither_rows_nor_company_change_a_score_beyond_rounding(problem):
    images = problem("convolutional", n=40)
    together = jacobian_geometry(images.model, images.x, images.y)
    for rows in (1, 7, 40):
        found = jacobian_geometry(images.model, images.x, images.y, rows=rows)
        for name, score in together.items():
            close(found[name], score, 1e-5)
    assert jacobian_geometry(images.model, images.x[:3], images.y[:3])["margin"].shape == (3,)


def test_no_call_has_more_rows_than_asked_for_and_passes_are_counted(problem):
    images, calls, passes = problem("linear", n=40), [], []

    def watch(logits: Tensor, x: Tensor) -> Tensor:
        calls.append(len(x))
        logits.register_hook(lambda grad: passes.append(len(grad)))
        return logits

    jacobian_geometry(Patched(images.model, watch), images.x, images.y, rows=20)
    assert calls == [20, 20]
    assert len(passes) == 2 * 5
    passes.clear()
    jacobian_geometry(Patched(images.model, watch), images.x, images.y, classes=2)
    assert len(passes) == 3


def test_fewer_classes_look_at_the_likeliest_of_each_image(problem):
    images = problem("linear", classes=8)
    w, logits = images.model.w.detach().double().flatten(1), images.model(images.x).detach()
    every, two = jacobian_geometry(images.model, images.x, images.y), jacobian_geometry(images.model, images.x, images.y, classes=2)
    for name in ("row-norm-true", "margin", "effective-margin", "slope-alignment"):
        assert torch.equal(every[name], two[name])
    second = logits.argsort(1, descending=True)[:, 1:3]
    close(two["row-norm-mean"], w[second].norm(dim=2).mean(1))
    assert (two["effective-margin-min"] >= every["effective-margin-min"]).all()
    assert torch.equal(jacobian_geometry(images.model, images.x, images.y, classes=1)["effective-margin-min"], every["effective-margin"])


@pytest.mark.filterwarnings("ignore:the logits have no gradient:RuntimeWarning")
def test_without_a_gradient_norms_are_0_and_quotients_are_not_defined(problem):
    images = problem("dense")
    found = jacobian_geometry(Cut(images.model), images.x, images.y)
    assert (found["row-norm-true"] == 0).all()
    assert (found["row-norm-mean"] == 0).all()
    assert (found["margin"] > 0).all()
    for name in ("effective-margin", "effective-margin-min", "slope-alignment"):
        assert found[name].isnan().all()


def test_a_class_whose_slope_is_the_label_s_bounds_nothing(problem):
    images = problem("linear", classes=3)
    with torch.no_grad():
        images.model.w[1] = images.model.w[0]
        images.model.b[:] = torch.tensor([1e4, 1e4 - 1, 0.0])
    found = jacobian_geometry(images.model, images.x, torch.zeros_like(images.y))
    assert found["effective-margin"].isnan().all()
    logits, w = images.model(images.x).detach().double(), images.model.w.detach().double().flatten(1)
    close(found["effective-margin-min"], (logits[:, 0] - logits[:, 2]) / (w[0] - w[2]).norm(), 1e-4)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_an_image_with_a_logit_that_is_not_finite_has_no_score_and_harms_no_other(problem, bad):
    images = problem("dense")

    def spoil(logits: Tensor, x: Tensor) -> Tensor:
        place = (x.flatten(1)[:, 0] == images.x[2].flatten()[0])[:, None] & (torch.arange(10) == 4)
        return logits.masked_fill(place, bad)

    found, whole = jacobian_geometry(Patched(images.model, spoil), images.x, images.y), jacobian_geometry(images.model, images.x, images.y)
    rest = torch.arange(len(images.x)) != 2
    for name, score in found.items():
        assert score[2].isnan()
        close(score[rest], whole[name][rest])


def test_images_and_parameters_are_left_as_they_were(problem):
    images = problem("dense")
    x = images.x.clone()
    with torch.no_grad():
        found = jacobian_geometry(images.model, images.x, images.y)
    assert torch.equal(images.x, x)
    assert not images.x.requires_grad
    assert all(parameter.grad is None for parameter in images.model.parameters())
    assert all(score.dtype == torch.float64 and not score.requires_grad for score in found.values())


@pytest.mark.parametrize("options", [{"classes": 0}, {"rows": 0}, {"rows": 2.5}])
def test_options_that_make_no_sense_are_refused(problem, options):
    images = problem("dense")
    with pytest.raises(InputError, match="whole number"):
        jacobian_geometry(images.model, images.x, images.y, **options)


def test_a_model_of_one_class_has_no_margin(problem):
    images = problem("linear", classes=1)
    with pytest.raises(InputError, match="at least 2 classes"):
        jacobian_geometry(images.model, images.x, torch.zeros_like(images.y))


def test_alignment_of_the_gradient_map_is_the_slope_alignment_over_the_length_of_the_image(problem):
    images = problem("linear")
    maps = images.model.w.detach()[images.y]
    close(
        alignment(explained(images.x, maps)),
        jacobian_geometry(images.model, images.x, images.y)["slope-alignment"] / images.x.flatten(1).double().norm(dim=1),
    )


def test_alignment_is_1_for_the_image_itself_and_minus_1_for_its_negative():
    x = torch.rand(4, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    close(alignment(explained(x, 1e-8 * x)), torch.ones(4))
    close(alignment(explained(x, -7 * x)), -torch.ones(4))
    assert (alignment(explained(x, x)) <= 1).all()


def test_a_map_of_one_channel_is_compared_with_the_mean_over_channels():
    x = torch.rand(4, 3, 5, 5, generator=torch.Generator().manual_seed(0))
    close(alignment(explained(x, x.mean(1, keepdim=True))), torch.ones(4))
    close(alignment(explained(x, x[:, :1])), nn.functional.cosine_similarity(x.mean(1).flatten(1), x[:, 0].flatten(1)))


@pytest.mark.parametrize("channels", [1, 3])
def test_centred_alignment_does_not_change_with_brightness(channels):
    g = torch.Generator().manual_seed(0)
    x, maps = torch.rand(4, 3, 5, 5, generator=g) / 2, torch.randn(4, channels, 5, 5, generator=g)
    lighter = x + torch.tensor([0.1, 0.3, 0.5])[:, None, None]
    close(alignment(explained(lighter, maps), centred=True), alignment(explained(x, maps), centred=True))
    assert ((alignment(explained(lighter, maps)) - alignment(explained(x, maps))).abs() > 1e-3).all()
    spread = x - x.mean((2, 3), keepdim=True)
    spread = spread.mean(1, keepdim=True) if channels == 1 else spread
    close(alignment(explained(x, maps), centred=True), nn.functional.cosine_similarity(spread.flatten(1), maps.flatten(1)))


@pytest.mark.parametrize("channels", [1, 3])
def test_alignment_is_not_defined_for_empty_maps_and_images_or_maps_that_are_not_finite(channels):
    x, maps = torch.rand(5, 3, 4, 4), torch.randn(5, channels, 4, 4)
    maps[0], maps[1, 0, 1, 1], maps[2, 0, 0, 0], x[3] = 0, math.nan, math.inf, 0.3
    assert alignment(explained(x, maps)).isnan().tolist() == [True, True, True, False, False]
    assert alignment(explained(x, maps), centred=True).isnan().tolist() == [True, True, True, True, False]
    assert alignment(explained(torch.zeros_like(x), maps)).isnan().all()
