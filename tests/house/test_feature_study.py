"""The measures of the feature study: linear CKA, the ridge probe, and what tells how features are spread."""

from __future__ import annotations

import pytest
import torch
from places import TESTS
from torch import Tensor, nn

from robench.core.errors import InputError
from robench.core.recipes import run_user_file
from robench.data import Images

study = run_user_file(TESTS / "benchmarks" / "feature_study.py")


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def rotation(d: int) -> Tensor:
    return torch.linalg.qr(normal(d, d, seed=7)).Q


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(12, 7), nn.ReLU(), nn.Linear(7, 3))


def images(n: int = 40) -> Images:
    x = torch.rand(n, 3, 2, 2, generator=torch.Generator().manual_seed(1))
    return Images("made", "test", x, torch.arange(n) % 3, torch.arange(n), ("a", "b", "c"))


def test_rotated_scaled_and_shifted_features_have_a_cka_of_1():
    features = normal(50, 6)
    assert study.cka(features, 3 * features @ rotation(6) + 5) == pytest.approx(1, abs=1e-12)


def test_a_linear_map_that_is_no_rotation_lowers_cka():
    features = normal(200, 6)
    assert study.cka(features, features @ torch.diag(torch.tensor([9.0, 1, 1, 1, 1, 1], dtype=torch.float64))) < 0.8


def test_cka_is_symmetric_and_takes_features_of_other_width():
    one, other = normal(30, 4), normal(30, 9, seed=1) + normal(30, 1) @ normal(1, 9, seed=2)
    assert study.cka(one, other) == pytest.approx(study.cka(other, one))
    assert 0 < study.cka(one, other) < 1


def test_cka_of_single_features_is_their_squared_correlation():
    both = normal(40, 2)
    both[:, 1] += both[:, 0]
    assert study.cka(both[:, :1], both[:, 1:]) == pytest.approx(float(torch.corrcoef(both.T)[0, 1] ** 2))


def test_independent_features_come_near_to_a_cka_of_0_as_images_grow_many():
    few, many = (study.cka(normal(n, 5), normal(n, 5, seed=1)) for n in (50, 20_000))
    assert many < 0.001
    assert 0.02 < few < 0.3


def test_the_participation_ratio_counts_the_axes_in_use():
    even = torch.cat((torch.eye(4), -torch.eye(4))).double()
    assert study.participation(even) == pytest.approx(4)
    assert study.participation(5 * even @ rotation(4) + 2) == pytest.approx(4)
    assert study.participation(normal(30, 1) @ normal(1, 4)) == pytest.approx(1)
    assert study.participation(torch.tensor([[3.0, 0], [-3, 0], [0, 1], [0, -1]]).double()) == pytest.approx(10**2 / (9**2 + 1))


def test_class_separation_is_what_the_cosines_of_all_pairs_give():
    features, y = normal(30, 5) + 1, torch.arange(30) % 3
    unit = features / features.norm(dim=1, keepdim=True)
    distance = 1 - unit @ unit.T
    blocks = torch.stack([torch.stack([distance[y == a][:, y == b].mean() for b in range(3)]) for a in range(3)])
    assert study.class_separation(features, y) == pytest.approx(float(1 - blocks.diagonal().mean() / blocks.mean()))


def test_classes_that_have_collapsed_are_fully_separated_and_classes_at_random_are_not():
    y = torch.arange(3000) % 3
    assert study.class_separation(torch.eye(4).double()[y] * (1 + torch.arange(3000)[:, None]), y) == pytest.approx(1)
    assert abs(study.class_separation(normal(3000, 4), y)) < 0.01


def test_between_over_within_by_hand():
    features = torch.tensor([[0.0, 0], [2, 0], [4, 1], [6, 1]]).double()  # means (1, 0) and (5, 1), around (3, 0.5)
    assert study.between_over_within(features, torch.tensor([0, 0, 1, 1])) == pytest.approx(4 * (2**2 + 0.5**2) / 4)


def test_classes_may_be_of_any_size_and_number():
    features, y = normal(12, 3), torch.tensor([5] * 9 + [2] * 3)
    assert 0 < study.between_over_within(features, y) < 1
    assert study.class_separation(features, y) == pytest.approx(study.class_separation(features.flip(0), y.flip(0)))


def test_the_ridge_is_least_squares_with_further_rows_that_hold_the_weights_down():
    features, y, strength = normal(25, 4) + 2, torch.arange(25) % 3, 0.3
    weights, biases = study.ridge(features, y, 3, strength)
    held = (25 * strength * features.var(0, correction=0).mean()).sqrt() * torch.eye(4).double()
    design = torch.cat((torch.cat((features, torch.ones(25, 1)), 1), torch.cat((held, torch.zeros(4, 1)), 1)))
    targets = torch.cat((nn.functional.one_hot(y, 3).double(), torch.zeros(4, 3)))
    expected = torch.linalg.lstsq(design, targets).solution.T
    assert torch.allclose(torch.cat((weights, biases[:, None]), 1), expected)


def test_the_ridge_does_not_mind_features_that_never_change():
    features = torch.cat((normal(25, 2), torch.zeros(25, 2)), 1)
    weights, biases = study.ridge(features, torch.arange(25) % 2, 2, 1e-6)
    assert weights.isfinite().all()
    assert biases.isfinite().all()
    assert all(part.isfinite().all() for part in study.ridge(torch.zeros(9, 2).double(), torch.arange(9) % 2, 2, 1e-6))


def test_a_probe_recovers_a_linear_labelling():
    features, new = normal(3000, 6), normal(500, 6, seed=3)
    direction = normal(6, 1, seed=4)

    def labels(some: Tensor) -> Tensor:
        return (some @ direction > 0.5).long().squeeze(1)

    weights, biases, _ = study.fitted(features[:2500], labels(features[:2500]), features[2500:], labels(features[2500:]), 2)
    assert ((new @ weights.T + biases).argmax(1) == labels(new)).double().mean() > 0.93
    assert torch.nn.functional.cosine_similarity(weights[1], direction.squeeze(1), dim=0) > 0.99


def test_a_probe_of_features_that_say_nothing_is_at_chance():
    y = torch.arange(3000) % 5
    weights, biases, _ = study.fitted(normal(3000, 6), y, normal(500, 6, seed=1), y[:500], 5)
    assert abs(((normal(3000, 6, seed=2) @ weights.T + biases).argmax(1) == y).double().mean() - 0.2) < 0.04


def test_the_strength_is_the_one_that_the_held_out_features_choose():
    features, y = torch.cat((normal(60, 40), normal(60, 1, seed=1) + 2 * (torch.arange(60) % 2)[:, None]), 1), torch.arange(60) % 2
    held, labels = (
        torch.cat((normal(400, 40, seed=2), normal(400, 1, seed=3) + 2 * (torch.arange(400) % 2)[:, None]), 1),
        torch.arange(400) % 2,
    )

    def accuracy(strength: float) -> float:
        weights, biases = study.ridge(features, y, 2, strength)
        return float(((held @ weights.T + biases).argmax(1) == labels).double().mean())

    found = {strength: accuracy(strength) for strength in study.STRENGTHS}
    chosen = study.fitted(features, y, held, labels, 2)[2]
    assert chosen == max(strength for strength, value in found.items() if value == max(found.values()))
    assert len(set(found.values())) > 1


def test_the_features_are_what_goes_into_the_last_layer():
    model, some = net(), images()
    with torch.no_grad():
        expected = model[:3](some.x)
    assert torch.allclose(study.penultimate(model, some), expected.double(), atol=1e-6)
    assert study.penultimate(model, some.take(slice(0, 3))).shape == (3, 7)
    assert model.training
    assert not model[3]._forward_pre_hooks


def test_the_probe_answers_in_place_of_the_last_layer_and_the_network_stays_as_it_was():
    model, some = net(), images()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    weights, biases = normal(3, 7), normal(3, seed=1)
    probed = study.with_last_layer(model, weights, biases)
    with torch.no_grad():
        logits = probed(some.x)
    assert torch.allclose(logits.double(), study.penultimate(model, some) @ weights.T + biases, atol=1e-5)
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert not probed.training


def test_a_probe_is_fitted_on_the_part_that_was_not_held_out():
    model, some = net(), images(60)
    training, held_out = study.holdout(some, 15, 3)
    features = [study.penultimate(model, part) for part in (training, held_out)]
    weights, biases, _ = study.fitted(features[0], training.y, features[1], held_out.y, 3)
    probed = study.probe_of(model, some, 15, 3)
    assert torch.allclose(probed[3].weight.double(), weights, atol=1e-5)
    assert torch.allclose(probed[3].bias.double(), biases, atol=1e-5)


def test_a_network_without_a_linear_layer_has_no_penultimate_features():
    with pytest.raises(InputError, match="no linear layer"):
        study.last_layer(nn.Sequential(nn.Conv2d(3, 3, 1), nn.Flatten()))


def test_the_table_of_cka_has_ones_on_its_diagonal_and_ends_with_the_floor():
    lines = study.cka_lines(["a", "b"], [normal(500, 4), normal(500, 4, seed=1)])
    assert lines[0][:2] == ["a", "1.000"]
    assert lines[1][2] == "1.000"
    assert lines[0][2] == lines[1][1]
    assert lines[2][0] == "a, permuted"
    assert float(lines[2][1]) < 0.05
