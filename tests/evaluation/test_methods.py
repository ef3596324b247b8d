"""The audit of one model: scores in their place, zero maps counted apart, targets, joined attacks, and what is refused."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from changes import audited, changed
from torch import nn

from robench.core.errors import InputError
from robench.core.recipes import parse_recipe
from robench.core.statistics import spearman
from robench.core.threat import Threat
from robench.evaluation.methods import chosen_methods, chosen_scores
from robench.evaluation.recipe_kinds import recipe_kind
from robench.results.score_rows import matching_row, score_columns, subject_score_rows
from robench.results.scores import ImageChange
from robench.scores.inequality import gini_of_sorted

SIZE = (32, 32)


def run(problem, methods=("saliency",), scores=("maps",), **options):
    return audited(problem.model, problem.x, problem.y, methods=methods, scores=scores, **options)


def against(sentence, eps=0.05):
    return {"against": sentence, "threats": Threat("linf", eps)}


def test_the_gini_is_that_of_the_weights_that_belong_to_the_label(problem):
    images = problem("linear")
    some = run(images).methods[0]
    weights = images.model.w.detach()[images.y].flatten(1).abs().sort(1).values.double()
    torch.testing.assert_close(some.values["gini"], gini_of_sorted(weights), rtol=0, atol=1e-6)


def test_a_score_can_be_asked_of_a_class_or_of_the_prediction(problem):
    images = problem("linear")
    wrong = replace(images, y=(images.y + 1) % 5)
    one = run(wrong, target=2).methods[0]
    assert (one.values["gini"] - one.values["gini"][0]).abs().max() < 1e-6  # a linear model has one map a class
    predicted = run(wrong, target="predicted").methods[0].values["gini"]
    torch.testing.assert_close(predicted, run(images).methods[0].values["gini"])
    with pytest.raises(InputError, match="--target 5 is no class of the model: it has 5 classes"):
        run(images, target=5)
    with pytest.raises(InputError, match="unknown target 'ture': did you mean 'true'"):
        run(images, target="ture")


def test_the_scores_do_not_depend_on_the_batch(problem):
    images = problem("convolutional")
    methods = ("saliency", "smoothgrad,samples=3", "occlusion")
    one, other = run(images, methods, batch_size=16), run(images, methods, batch_size=5)
    for some, same in zip(one.methods, other.methods, strict=True):
        for name, values in some.values.items():
            torch.testing.assert_close(values, same.values[name], rtol=1e-4, atol=1e-5, equal_nan=True)
        torch.testing.assert_close(some.lorenz, same.lorenz, rtol=1e-4, atol=1e-5)


class Deaf(nn.Module):
    """A model that does not look at its input."""

    def forward(self, x):
        return torch.tensor([[2.0, 1.0, 0.0]]).expand(len(x), -1) + 0 * x.flatten(1).sum(1, keepdim=True)


class Rounded(nn.Module):
    """A model that rounds its input: its logits differ, its gradient is zero."""

    def forward(self, x):
        x = (x * 8).round() / 8
        return torch.stack((x.mean((1, 2, 3)), -x.mean((1, 2, 3))), 1)


@pytest.mark.parametrize(("model", "method"), [(Rounded(), "saliency"), (Rounded(), "integrated-gradients,steps=4")])
def test_maps_of_zero_are_not_put_down_to_a_model_that_does_react(model, method):
    x = torch.rand(9, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    done = audited(model, x, torch.zeros(9).long(), methods=method, scores="maps")
    assert "all 9 maps of the model are zero, although its logits differ from image to image: there is no Gini" in done.notes[-1]


def test_a_constant_model_gets_a_report_that_says_so():
    x = torch.rand(9, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    done = audited(Deaf(), x, torch.zeros(9).long(), methods=["saliency", "integrated-gradients,steps=4"], scores=["maps"])
    assert [bool(some.zero.all()) for some in done.methods] == [True, True]
    assert all(values.isnan().all() for some in done.methods for values in some.values.values())
    assert "all 9 maps of the model are zero, and it gives every image the same logits: there is no Gini" in done.notes[0]
    rows = subject_score_rows(done)
    gini = matching_row(rows, "model", "saliency", "gini")
    assert (gini.n, math.isnan(gini.value)) == (0, True)
    assert matching_row(rows, "model", "saliency", "zero_maps").value == 9


class Half(nn.Module):
    """Looks at images whose first pixel is bright, and not at the others."""

    def forward(self, x):
        score = x.flatten(1).sum(1) * (x[:, 0, 0, 0] > 0.5)
        return torch.stack((score, -score), 1)


def test_maps_that_are_zero_are_counted_and_left_out_of_the_mean():
    x = torch.rand(20, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    done = audited(Half(), x, torch.zeros(20).long(), scores=["gini"])
    dark = int((x[:, 0, 0, 0] <= 0.5).sum())
    assert 0 < dark < 20
    assert f"{dark} of 20 maps are zero everywhere" in done.notes[0]
    row = matching_row(subject_score_rows(done), "model", "saliency", "gini")
    assert (row.n, row.value) == (20 - dark, pytest.approx(0, abs=1e-12))
    table = score_columns([done])
    assert sum(table["zero_map"]) == dark


def test_means_quantiles_and_the_part_that_is_right_are_those_of_the_column(problem):
    images = problem("convolutional")
    half = replace(images, y=torch.where(torch.arange(16) < 6, (images.y + 1) % 10, images.y))
    done = run(half, target="predicted")
    rows, table = subject_score_rows(done), score_columns([done])
    gini = np.array(table["gini"])
    assert matching_row(rows, "model", "saliency", "gini").value == pytest.approx(gini.mean())
    assert matching_row(rows, "model", "saliency", "gini/sd").value == pytest.approx(gini.std(ddof=1))
    assert matching_row(rows, "model", "saliency", "gini/q95").value == pytest.approx(np.quantile(gini, 0.95))
    right = matching_row(rows, "model", "saliency", "gini/right")
    assert (right.n, right.value) == (10, pytest.approx(gini[6:].mean()))
    assert rows[0].value == pytest.approx(10 / 16)
    low, high = matching_row(rows, "model", "saliency", "gini").low, matching_row(rows, "model", "saliency", "gini").high
    assert low < gini.mean() < high


def test_what_falls_is_set_against_what_stands(problem):
    images = problem("convolutional", n=40)
    done = run(images, **against("pgd-10", eps=0.01))
    fell = done.changes[0].fallen.numpy()
    assert 0 < fell.sum() < 40
    rows, gini = subject_score_rows(done), done.methods[0].values["gini"].numpy()
    words = {"checkpoint": "model", "probe": "saliency", "against": "pgd-10"}
    assert matching_row(rows, **words, metric="gini/fallen").value == pytest.approx(gini[fell].mean())
    assert matching_row(rows, **words, metric="gini/standing").value == pytest.approx(gini[~fell].mean())
    assert matching_row(rows, **words, metric="gini/difference").value == pytest.approx(gini[fell].mean() - gini[~fell].mean())
    pairs = gini[fell][:, None] - gini[~fell][None]
    assert matching_row(rows, **words, metric="gini/superiority").value == pytest.approx(((pairs > 0) + 0.5 * (pairs == 0)).mean())
    margins = done.margin.numpy()
    assert matching_row(rows, "model", "saliency", "gini/margin_correlation").value == pytest.approx(spearman(gini, margins)[0])
    adversarial = done.methods[1]
    assert adversarial.places.tolist() == fell.nonzero()[0].tolist()
    shift = adversarial.values["gini"].numpy() - gini[fell]
    assert matching_row(rows, "model", "saliency", "gini/shift", images="pgd-10").value == pytest.approx(shift.mean())
    table = score_columns([done])
    assert table["fallen_pgd-10"][:40] == fell.astype(int).tolist()


def test_the_maps_of_adversarial_images_are_maps_of_these_images(problem):
    images = problem("convolutional", n=12)
    done = run(images, **against("pgd-10"))
    (change,) = done.changes
    alone = run(replace(images, x=change.x(change.places), y=images.y[change.places]))
    torch.testing.assert_close(done.methods[1].values["gini"], alone.methods[0].values["gini"], rtol=1e-4, atol=1e-6)


def test_the_class_explained_on_a_changed_image_is_the_one_of_that_image(problem):
    images = problem("convolutional", n=12)
    done = run(images, target="predicted", **against("pgd-10"))
    table, (change,) = score_columns([done]), done.changes
    with torch.no_grad():
        taken = images.model(change.x(change.places)).argmax(1)
    assert len(taken)
    assert table["target"][:12] == images.y.tolist()
    assert table["target"][12:] == taken.tolist()
    assert (taken != images.y[change.places]).all()


def test_probes_and_corruptions_are_joined_too(problem):
    images = problem("convolutional", n=20, shape=(3, 32, 32))
    every = torch.arange(20)
    noisy = changed("random-noise,t=0.2", images.model, images.x, images.y)
    assert (noisy.name, noisy.tried.all(), len(noisy.places)) == ("random-noise", True, 20)
    pixels = (noisy.x(every) != images.x).flatten(1).sum(1)
    assert (pixels <= int(0.2 * 3072)).all()
    assert (pixels > 0.1 * 3072).all()
    with torch.no_grad():
        assert torch.equal(images.model(noisy.x(every)).argmax(1) != images.y, noisy.fallen)
    rough = changed("gaussian_noise,severity=5", images.model, images.x, images.y)
    assert rough.name == "gaussian_noise-5"
    assert 0.05 < float((rough.x(every) - images.x).abs().mean()) < 0.1  # sigma = 0.1, clipped
    with pytest.raises(InputError, match="has several levels"):
        changed("random-noise", images.model, images.x, images.y)


def test_models_that_return_probabilities_are_refused(problem):
    images = problem("convolutional")
    with pytest.raises(InputError, match="the model returns probabilities"):
        run(replace(images, model=nn.Sequential(images.model, nn.Softmax(1)).eval()))


def test_methods_and_scores_are_checked_before_anything_runs():
    with pytest.raises(InputError, match="unknown method 'salency': did you mean 'saliency'"):
        chosen_methods(["salency"])
    with pytest.raises(InputError, match="asked for twice"):
        chosen_methods(["occlusion,block=2", "occlusion"])
    with pytest.raises(InputError, match="none of the methods saliency has a block: leave --block out"):
        chosen_methods(["saliency"], block=4)
    assert chosen_methods(["saliency", "occlusion", "feature-ablation,block=2"], block=8)[1].options == {"block": 8}
    assert chosen_methods(["feature-ablation,block=2"], block=8)[0].options == {"block": 2}
    with pytest.raises(InputError, match="unknown score 'ginni': did you mean 'gini'"):
        chosen_scores(["ginni"], False, SIZE)
    with pytest.raises(InputError, match="needs the object's mask"):
        chosen_scores(["pointing-game"], False, SIZE)
    assert [score.name for score in chosen_scores(["masks", "gini"], False, SIZE)[0]] == ["gini"]
    assert len(chosen_scores(["all"], True, SIZE)[0]) == len(chosen_scores(["all"], False, SIZE)[0]) + 3
    with pytest.raises(InputError, match="unknown attack, probe, corruption or method 'pgd-2000'"):
        recipe_kind(parse_recipe("pgd-2000"))


def test_methods_and_scores_of_the_user_join(problem, tmp_path):
    (tmp_path / "mine.py").write_text(
        "def flipped(model, x, target, draws, *, sign=-1.0):\n    return sign * x\n\n"
        "def largest(explained, *, power=1):\n    return explained.sizes.flatten(1).amax(1).double() ** power\n"
    )
    images = problem("convolutional")
    (some,) = run(images, (f"{tmp_path}/mine.py:flipped",), (f"{tmp_path}/mine.py:largest,power=2", "alignment")).methods
    assert some.method == "mine.py:flipped"
    torch.testing.assert_close(some.values["mine.py:largest"], images.x.flatten(1).amax(1).double() ** 2)
    torch.testing.assert_close(some.values["alignment"], -torch.ones(16, dtype=torch.float64))
    assert some.options["mine.py:largest"] == "power=2"


def test_an_image_smaller_than_a_block_is_refused(problem):
    with pytest.raises(InputError, match="block"):
        run(problem("convolutional"), ("occlusion,block=9",))


def test_an_altered_image_says_who_fell_among_those_that_were_tried():
    change = ImageChange("pgd", torch.tensor([True, False, False]), torch.tensor([True, True, False]), None, torch.tensor([0]))
    assert change.words(torch.arange(3)) == [1, 0, None]


@pytest.mark.parametrize("size", [(37, 50), (227, 227), (257, 257)])
def test_a_group_leaves_the_regional_gini_out_where_no_block_divides_the_images(size):
    scores, notes = chosen_scores(["maps"], False, size)
    assert "gini" in [score.name for score in scores]
    assert "regional-gini" not in [score.name for score in scores]
    assert notes[0].startswith("regional-gini is left out: no block of about")
    named, notes = chosen_scores(["maps", "regional-gini"], False, size)  # asked for: refused as it is computed
    assert ("regional-gini" in [score.name for score in named], notes) == (True, [])
    assert chosen_scores(["gini"], False, size)[1] == []
    assert chosen_scores(["maps"], False, (224, 224))[1] == []
