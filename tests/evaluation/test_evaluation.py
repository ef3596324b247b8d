"""The cascade: verdicts on models with known distances, what every claim is checked for, and what the rows say."""

import dataclasses
import errno
import math
import os
import random

import pytest
import torch
from torch import nn

from robench import evaluate
from robench.core.errors import InputError
from robench.core.recipes import parse_recipe
from robench.core.rows import Row, wilson
from robench.core.types import AttackResult
from robench.evaluation.suites import SUITES, suite_recipes


def value(found, probe, metric="accuracy"):
    return next(row.value for row in found.rows if (row.probe, row.metric) == (probe, metric))


@pytest.mark.parametrize("norm", ["linf", "l2"])
def test_the_images_that_stand_after_pgd_are_those_farther_than_eps_from_the_boundary(problem, norm):
    p = problem("linear", n=40)
    distances = p.distances(norm)
    eps = float(distances.sort().values[19:21].mean())
    found = evaluate(p.model, p.x, p.y, suite=[parse_recipe("pgd,steps=40,restarts=3,loss=margin")], norm=norm, eps=eps)
    clear = (distances / eps - 1).abs() > 0.02  # pgd comes within 2 % of the optimum
    for sample, distance, decided in zip(found.samples, distances.tolist(), clear.tolist(), strict=True):
        if decided:
            assert (sample.broken_by == "") == (distance > eps)
    assert value(found, "pgd") == sum(not s.broken_by for s in found.samples) / 40


def test_verdicts_do_not_depend_on_batch_size_order_or_neighbours(problem):
    p = problem("linear", n=40)
    eps = float(p.distances("linf").median())
    suite = [parse_recipe("fgsm"), parse_recipe("noise,tries=5"), parse_recipe("pgd,steps=3,restarts=2")]
    whole = evaluate(p.model, p.x, p.y, suite=suite, eps=eps)
    assert [s.broken_by for s in evaluate(p.model, p.x, p.y, suite=suite, eps=eps, batch_size=7).samples] == [
        s.broken_by for s in whole.samples
    ]
    order = torch.randperm(40, generator=torch.Generator().manual_seed(0))
    turned = evaluate(p.model, p.x[order], p.y[order], suite=suite, eps=eps, ids=order, batch_size=16)
    assert str(sorted(turned.samples, key=lambda s: s.sample)) == str(whole.samples)  # as text: nan is not equal to itself


def test_each_attack_runs_only_on_what_stands_and_the_accuracy_never_rises(problem):
    p = problem("linear", n=30)
    eps = float(p.distances("linf").quantile(0.3))
    found = evaluate(p.model, p.x, p.y, suite=[parse_recipe("pgd-10"), parse_recipe("fgsm")], eps=eps)
    left = [value(found, probe) for probe in ("clean", "pgd-10", "fgsm")]
    assert left == sorted(left, reverse=True)
    assert left[0] == 1
    pgd = next(row for row in found.rows if (row.probe, row.metric) == ("fgsm", "success_rate"))
    assert pgd.n == round(left[1] * 30)  # fgsm was given what pgd left


def nothing(x):
    zero = torch.zeros(len(x), dtype=torch.int64)
    return AttackResult(x.clone(), zero.bool(), zero - 1, zero, zero, zero.bool())


def wild(x_adv):
    """An attack that hands out the given points and claims that all of them fool."""

    def attack(model, x, y, threat, draws):
        return dataclasses.replace(nothing(x), x_adv=x_adv[: len(x)], fooled=torch.ones(len(x), dtype=torch.bool))

    return attack


@pytest.fixture
def own_attack(monkeypatch):
    """Puts a function into the table of attacks under the name "own"."""
    from robench import attacks

    def put(attack):
        monkeypatch.setitem(attacks.ATTACKS, "own", attack)
        return [parse_recipe("own")]

    return put


def test_a_point_outside_the_threat_is_moved_inside_before_it_is_judged_and_raises_a_flag(problem, own_attack):
    p = problem("affine", n=12)
    far = (p.x + 0.5 * torch.where((p.y == 0).view(-1, 1, 1, 1), -1, 1) * p.model.w.detach().sign()).clamp(0, 1)
    distances = p.distances("linf")
    eps = float(distances.quantile(0.6))
    found = evaluate(p.model, p.x, p.y, suite=own_attack(wild(far)), eps=eps)
    assert [bool(s.broken_by) for s in found.samples] == (distances < eps).tolist()
    assert [(check.probe, check.value) for check in found.checks if check.name == "outside" and check.raised] == [("own", 12.0)]
    assert all(s.distance <= eps + 1e-6 for s in found.samples if s.broken_by)


def test_a_claim_that_does_not_hold_is_not_believed(problem, own_attack):
    p = problem("linear", n=10)
    found = evaluate(p.model, p.x, p.y, suite=own_attack(wild(p.x.clone())), eps=0.1)
    assert value(found, "own") == 1
    assert value(found, "own", "success_rate") == 1  # what the attack claims stays visible


class NaNAway(nn.Module):
    """A model that gives NaN as soon as an image is moved."""

    def __init__(self, model, x):
        super().__init__()
        self.model, self.x = model, x

    def forward(self, x):
        known = (x[:, None] == self.x[None]).flatten(2).all(2).any(1)
        return torch.where(known[:, None], self.model(x), float("nan"))


def test_nan_in_mid_attack_never_counts_and_raises_a_flag(problem):
    p = problem("linear", n=8)
    found = evaluate(NaNAway(p.model, p.x), p.x, p.y, suite=[parse_recipe("pgd-10")], eps=0.3)
    assert value(found, "pgd-10") == 1
    assert any("NaN" in flag for flag in found.flags)


def test_nan_on_clean_images_is_an_error(problem):
    p = problem("linear", n=8)
    with pytest.raises(InputError, match="NaN"):
        evaluate(NaNAway(p.model, p.x[:7]), p.x, p.y, suite=[], eps=0.3)


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (lambda x, y: (x, y + 3), "out of range"),
        (lambda x, y: (x, y - 5), "out of range"),
        (lambda x, y: (x * 3 - 1, y), "undo the normalisation"),
        (lambda x, y: (x[:0], y[:0]), "N > 0"),
        (lambda x, y: (x[0], y), "must be images"),
        (lambda x, y: (x, y[:3]), "one label for each"),
    ],
)
def test_images_and_labels_that_cannot_be_are_refused(problem, spoil, sentence):
    p = problem("linear", n=8, classes=5)
    with pytest.raises(InputError, match=sentence):
        evaluate(p.model, *spoil(p.x, p.y), suite=[], eps=0.1)


def test_bytes_and_floats_give_the_same(problem):
    p = problem("linear", n=20)
    x = (p.x * 255).round().to(torch.uint8)
    y = p.model(x / 255).argmax(1)
    byte, real = (evaluate(p.model, pixels, y, suite=[parse_recipe("fgsm")], eps=0.01) for pixels in (x, x / 255))
    assert str(byte.samples) == str(real.samples)


def test_the_model_is_left_as_it_was(problem):
    p = problem("convolutional")
    p.model.train()
    before = {name: tensor.clone() for name, tensor in p.model.state_dict().items()}
    evaluate(p.model, p.x, p.y, suite=[parse_recipe("pgd-10")], eps=0.05)
    assert p.model.training
    assert all(parameter.requires_grad and parameter.grad is None for parameter in p.model.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in p.model.state_dict().items())


def test_rows_carry_interval_passes_and_the_suites_own_verdict(problem):
    p = problem("linear", n=25)
    about = Row("net.pt", "small", "toy", "test", 0, 0, "", 0.0, "", "", "", 0.0)
    found = evaluate(p.model, p.x, p.y, suite="smoke", eps=float(p.distances("linf").median()), seed=3, about=about)
    last, own = (next(row for row in found.rows if (row.probe, row.metric) == (probe, "accuracy")) for probe in ("pgd-10", "smoke"))
    assert (own.value, own.low, own.high) == (last.value, *wilson(round(last.value * 25), 25))
    assert {row.seed for row in found.rows} == {3}
    assert {row.checkpoint for row in found.rows} == {"net.pt"}
    for metric in ("forwards", "backwards"):
        assert value(found, "smoke", metric) == sum(getattr(sample, metric) for sample in found.samples)
    clean = next(row for row in found.rows if row.probe == "clean")
    assert (clean.norm, clean.eps) == ("", 0.0)
    broken = [s for s in found.samples if s.broken_by]
    assert all(s.adv_margin <= 0 and s.adv_pred != s.label and s.step >= 0 for s in broken)
    assert all(math.isnan(s.adv_margin) and s.adv_pred == s.label and s.step == -1 for s in found.samples if not s.broken_by)


def test_wrong_images_are_not_attacked(problem):
    p = problem("linear", n=20)
    y = (p.y + (torch.arange(20) % 2)) % 5
    found = evaluate(p.model, p.x, y, suite=[parse_recipe("fgsm")], eps=1e-4)
    assert [s.broken_by for s in found.samples] == ["", "clean"] * 10
    assert all(s.forwards == 1 for s in found.samples if s.broken_by == "clean")


def test_accuracy_at_chance_raises_a_flag(problem):
    p = problem("linear", n=60)
    found = evaluate(p.model, p.x, (p.y + 1) % 5, suite=[], eps=0.0)
    assert [check.name for check in found.checks if check.raised] == ["near_chance"]
    assert evaluate(p.model, p.x, p.y, suite=[], eps=0.0).flags == []


def test_every_recipe_of_every_suite_is_known():
    from robench.attacks import ENGINES
    from robench.core.threat import NORMS, Threat
    from robench.evaluation.plans import RunRequest, refuse_unknown
    from robench.evaluation.recipe_kinds import refuse_unresolvable
    from robench.evaluation.suites import SUITE_SUMMARIES

    assert set(SUITE_SUMMARIES) == set(SUITES)
    for suite in SUITES:
        for norm in ("linf",) if suite == "fast" else NORMS:
            refuse_unknown(RunRequest([suite], [Threat(norm, 0.1)]), "robench")
    for engine in ENGINES:
        for suite in ("autoattack", "autoattack-plus", "autoattack-rand"):
            for norm in NORMS:
                refuse_unresolvable(suite_recipes(suite, norm), engine)
    with pytest.raises(InputError, match="did you mean 'autoattack'"):
        refuse_unknown(RunRequest(["autoatack"], [Threat("linf", 0.1)]), "robench")


@pytest.mark.parametrize("classes", [2, 3, 5, 10, 100])
def test_autoattack_runs_with_any_number_of_classes_and_the_rows_say_what_stood_in(problem, classes):
    p = problem("linear", n=4, classes=classes, shape=(3, 8, 6))
    eps = 0.5 * float(p.distances("linf").min())
    found = evaluate(p.model, p.x, p.y, suite=QUICK, eps=eps)
    assert value(found, "square") == 1
    settings = {row.probe: row.setting.split() for row in found.rows}
    assert ("loss=margin" in settings["apgd-t"]) == (classes < 4)
    assert ("loss=margin" in settings["apgd-dlr"]) == (classes < 3)
    for probe in ("apgd-t", "fab-t"):
        assert f"targets={min(9, classes - 1)}" in settings[probe]
    assert bool(found.notes) == (classes < 10)
    assert found.flags == []


QUICK = [parse_recipe(f"{name},steps=5") for name in ("apgd-ce", "apgd-dlr", "apgd-t", "fab", "fab-t")] + [parse_recipe("square,queries=5")]


def test_the_reference_engine_says_what_it_leaves_out(problem):
    p = problem("linear", n=4, classes=3, shape=(3, 8, 8))
    suite = [parse_recipe("apgd-t,steps=3"), parse_recipe("fab-t,steps=3")]
    found = evaluate(p.model, p.x, p.y, suite=suite, eps=0.001, engine="reference")
    assert found.notes[0] == "apgd-t: left out: the targeted DLR loss needs 4 classes, the model has 3"
    assert all("engine=reference" in row.setting for row in found.rows if row.probe != "clean" and row.metric == "accuracy")
    with pytest.raises(InputError, match="unknown engine"):
        evaluate(p.model, p.x, p.y, suite=suite, engine="pyautoattack")
    with pytest.raises(InputError, match="runs in fp32"):
        evaluate(p.model, p.x, p.y, suite=suite, engine="reference", precision="bf16")


def test_several_radii_give_a_falling_curve_whose_points_are_the_exact_ones(problem):
    p = problem("linear", n=40)
    distances = p.distances("linf")
    radii = [float(distances.quantile(q)) * 1.0001 for q in (0.75, 0.25, 0.5)]
    found = evaluate(p.model, p.x, p.y, suite=[parse_recipe("pgd,steps=40,restarts=2,loss=margin")], eps=radii)
    for eps in radii:
        assert found.accuracy("pgd", eps) == pytest.approx(float((distances > eps).double().mean()), abs=0.026)
    broken = [(s.eps, d) for s, d in zip(found.samples, distances.tolist(), strict=True) if s.broken_by]
    assert all(min(r for r in radii if r >= d * 0.9999) <= eps for eps, d in broken)
    tried = [row.n for row in found.rows if row.metric == "success_rate"]
    assert tried == [40, *(round(40 * found.accuracy("pgd", eps)) for eps in sorted(radii)[:2])]  # only what no smaller radius broke
    assert math.isnan(found.samples[0].eps) or found.samples[0].eps in radii


def test_a_run_that_stops_at_a_half_width_draws_at_random_and_its_interval_holds_the_truth(problem):
    from robench.core.statistics import anytime_valid_interval

    p = problem("linear", n=600)
    distances = p.distances("linf")
    eps = float(distances.quantile(0.3))
    truth = float((distances > eps).double().mean())
    found = evaluate(p.model, p.x, p.y, suite=[parse_recipe("pgd,steps=20,loss=margin")], eps=eps, until=0.08, batch_size=50, seed=2)
    row = next(row for row in found.rows if (row.probe, row.metric) == ("pgd", "accuracy"))
    assert row.n == len(found.samples) < 600
    assert row.n % 50 == 0
    assert (row.high - row.low) / 2 <= 0.08
    assert row.low <= truth <= row.high
    assert (row.low, row.high) == anytime_valid_interval(round(row.value * row.n), row.n, 600)
    drawn = [s.sample for s in found.samples]
    assert drawn == sorted(drawn)
    assert max(drawn) > 500
    other = evaluate(p.model, p.x, p.y, suite=[parse_recipe("pgd,steps=20,loss=margin")], eps=eps, until=0.08, batch_size=50, seed=3)
    assert [s.sample for s in other.samples] != drawn
    assert found.examples == [] or all(found.examples[0][1].sample == place for place, *_ in found.examples[:1])


def test_a_run_is_taken_up_from_its_journal_and_nothing_is_asked_twice(problem, tmp_path):
    p = problem("linear", n=30)
    words = {
        "suite": [parse_recipe("fgsm"), parse_recipe("pgd,steps=4,loss=margin")],
        "eps": float(p.distances("linf").median()),
        "batch_size": 8,
    }
    whole = evaluate(p.model, p.x, p.y, folder=tmp_path, **words)
    path = tmp_path / "state-0.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    for kept in (1, 3, 6, len(lines) - 1):
        path.write_bytes(b"".join(lines[:kept]))
        again = evaluate(p.model, p.x, p.y, folder=tmp_path, resume=True, **words)
        assert str(again.samples) == str(whole.samples)
        assert [r for r in again.rows if r.metric != "seconds"] == [r for r in whole.rows if r.metric != "seconds"]
        assert str(again.examples) == str(whole.examples)
    with pytest.raises(InputError, match="its seed is 0, here it is 1"):
        evaluate(p.model, p.x, p.y, folder=tmp_path, resume=True, seed=1, **words)
    with torch.no_grad():
        p.model.b += 1
    with pytest.raises(InputError, match="its weights is"):
        evaluate(p.model, p.x, p.y, folder=tmp_path, resume=True, **words)


def test_a_damaged_state_is_refused_wherever_the_damage_is(problem, tmp_path):
    p, chance = problem("linear", n=12), random.Random(0)
    words = {
        "suite": [parse_recipe("pgd,steps=2,loss=margin")],
        "eps": float(p.distances("linf").median()),
        "batch_size": 4,
        "folder": tmp_path,
    }
    evaluate(p.model, p.x, p.y, examine=True, **words)
    path = tmp_path / "state-0.jsonl"
    whole = path.read_bytes()
    for place in (chance.randrange(len(whole) - 1) for _ in range(150)):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ chance.randrange(1, 256)]) + whole[place + 1 :])
        with pytest.raises(InputError, match="is damaged, or of another version of robench: remove it"):
            evaluate(p.model, p.x, p.y, examine=True, resume=True, **words)


def test_a_full_disk_is_a_sentence_before_an_image_is_attacked(problem, tmp_path, monkeypatch):
    def full(handle, offset, size):
        raise OSError(errno.ENOSPC, "No space left on device")

    p = problem("linear", n=4)
    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    with pytest.raises(InputError, match=r"cannot write .*x_adv\.npy: No space left on device"):
        evaluate(p.model, p.x, p.y, suite=[parse_recipe("fgsm")], save=tmp_path / "x_adv.npy", folder=tmp_path)
    assert list(tmp_path.iterdir()) == []


class Inventive(nn.Module):
    """A stand-in that calls every moved image wrong; the true model knows better."""

    def __init__(self, exact, x):
        super().__init__()
        self.exact, self.x = exact, x

    def forward(self, x):
        known = (x[:, None] == self.x[None]).flatten(2).all(2).any(1)
        return torch.where(known[:, None], 1.0, -1.0) * self.exact(x)


def test_a_stand_in_that_invents_is_not_believed_and_ends_no_search(problem, monkeypatch):
    from robench.runs import cases

    p = problem("linear", n=12)
    eps = float(p.distances("linf").quantile(0.5))
    monkeypatch.setattr(cases, "cheaper_stand_in", lambda model, x, **how: (Inventive(model, p.x), ["stand-in"]))
    found = evaluate(p.model, p.x, p.y, suite=[parse_recipe("noise,tries=20")], eps=eps, prepare=True)
    plain = evaluate(p.model, p.x, p.y, suite=[parse_recipe("noise,tries=20")], eps=eps)
    assert [s.broken_by for s in found.samples] == [s.broken_by for s in plain.samples]
    assert value(found, "noise", "success_rate") == value(plain, "noise", "success_rate")
    assert found.notes == ["stand-in"]


def test_adversarial_images_are_saved_in_the_order_of_the_samples(problem, tmp_path):
    import numpy as np

    p = problem("linear", n=20)
    eps = float(p.distances("linf").median())
    found = evaluate(p.model, p.x, p.y, suite=[parse_recipe("pgd-10")], eps=eps, save=tmp_path / "x_adv.npy", batch_size=6)
    x_adv = torch.from_numpy(np.load(tmp_path / "x_adv.npy"))
    broken = torch.tensor([bool(s.broken_by) for s in found.samples])
    assert 0 < int(broken.sum()) < 20
    assert torch.equal(x_adv[~broken], p.x[~broken])
    assert torch.equal(p.model(x_adv).argmax(1) != p.y, broken)
    assert float((x_adv - p.x).abs().max()) <= eps + 1e-6


def test_a_model_of_few_classes_gets_the_loss_that_is_defined(problem):
    from robench.attacks import ATTACKS, attack_for_classes
    from robench.core.recipes import options_of, resolve

    for classes, targeted, loss in ((2, False, "margin"), (3, False, "dlr"), (3, True, "margin"), (4, True, "dlr")):
        attack = ATTACKS["apgd-t" if targeted else "apgd-dlr"]
        assert options_of(attack_for_classes(attack, classes))["loss"] == loss
    chosen = resolve(parse_recipe("apgd-t,targets=3"), ATTACKS, "attack")
    assert options_of(attack_for_classes(chosen, 10))["targets"] == 3
    assert options_of(attack_for_classes(chosen, 3))["targets"] == 2


SHORT = ("fgsm", "pgd-10", "apgd-ce,steps=5", "apgd-t,steps=5", "fab-t,steps=5", "malt,steps=3", "square,queries=40")


@pytest.mark.parametrize("suite", SHORT)
def test_images_and_models_in_channels_last_give_the_same(problem, suite):
    p = problem("convolutional", n=20)
    eps = 0.02
    plain = evaluate(p.model, p.x, p.y, suite=[parse_recipe(suite)], eps=eps)
    x = p.x.contiguous(memory_format=torch.channels_last)
    turned = evaluate(p.model.to(memory_format=torch.channels_last), x, p.y, suite=[parse_recipe(suite)], eps=eps)
    assert [s.broken_by for s in turned.samples] == [s.broken_by for s in plain.samples]


@pytest.mark.parametrize("norm", ["l2", "l1"])
@pytest.mark.parametrize("name", ["apgd-ce", "fab-t,targets=2", "square"])
def test_attacks_take_channels_last_images_directly(problem, name, norm):
    from robench.attacks import ATTACKS
    from robench.core.recipes import resolve
    from robench.core.threat import Threat

    p = problem("convolutional", n=16)
    attack = resolve(parse_recipe(name + (",queries=30" if name == "square" else ",steps=5")), ATTACKS, "attack")
    threat = Threat(norm, 0.4 if norm == "l2" else 3.0)
    x = p.x.contiguous(memory_format=torch.channels_last)
    plain, turned = (attack(p.model, images, p.y, threat, p.draws()) for images in (p.x, x))
    assert torch.equal(plain.fooled, turned.fooled)
    torch.testing.assert_close(plain.x_adv, turned.x_adv, atol=1e-5, rtol=0)


class Jittery(nn.Module):
    """A linear model with noise in its logits."""

    def __init__(self, model):
        super().__init__()
        self.model, self.g = model, torch.Generator().manual_seed(0)

    def forward(self, x):
        logits = self.model(x)
        return logits + 0.3 * torch.randn(logits.shape, generator=self.g)


@pytest.mark.parametrize("engine", ["robench", "reference"])
def test_the_rand_version_averages_gradients_and_takes_randomness_as_it_is(problem, engine):
    p = problem("linear", n=20, shape=(1, 6, 6))
    distances = p.distances("linf")
    found = evaluate(Jittery(p.model), p.x, p.y, suite=RAND, eps=float(distances.max()) * 2, examine=True, engine=engine)
    assert value(found, "apgd-dlr") < 0.3
    checks = {check.name: check for check in found.checks}
    assert checks["randomised"].value > 1e-4
    assert not checks["randomised"].raised
    plain = evaluate(Jittery(p.model), p.x, p.y, suite=[parse_recipe("fgsm")], eps=0.01, examine=True)
    assert {check.name for check in plain.checks if check.raised} >= {"randomised"}


RAND = [parse_recipe("apgd-ce,eot=4,steps=8"), parse_recipe("apgd-dlr,eot=4,steps=8")]


def test_a_transfer_run_is_not_taken_up_with_another_surrogate(problem, monkeypatch, tmp_path):
    from robench.evaluation import plans
    from robench.models import LoadedModel

    p = problem("linear", n=20)
    words = {"suite": [parse_recipe("transfer:other.pt,steps=3")], "eps": 0.01, "folder": tmp_path}
    for seed, resume in ((1, False), (1, True)):
        surrogate = LoadedModel(problem("linear", seed=seed).model, "other.pt", "", {}, ())
        monkeypatch.setattr(plans, "load_with_origin", lambda *_, found=surrogate, **__: found)
        evaluate(p.model, p.x, p.y, resume=resume, **words)
    surrogate = LoadedModel(problem("linear", seed=2).model, "other.pt", "", {}, ())
    monkeypatch.setattr(plans, "load_with_origin", lambda *_, **__: surrogate)
    with pytest.raises(InputError, match="its surrogates is"):
        evaluate(p.model, p.x, p.y, resume=True, **words)


def test_a_run_with_a_half_width_ends_the_same_wherever_it_was_killed(problem, tmp_path):
    p = problem("linear", n=200)
    words = {"suite": [parse_recipe("fgsm"), parse_recipe("noise,tries=2")], "eps": float(p.distances("linf").quantile(0.3)), "until": 0.12}
    words |= {"batch_size": 40, "folder": tmp_path}
    whole = evaluate(p.model, p.x, p.y, **words)
    path = tmp_path / "state-0.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    assert len(whole.samples) < 200
    for kept in range(1, len(lines)):
        path.write_bytes(b"".join(lines[:kept]) + lines[kept][: len(lines[kept]) // 2])  # killed within the next line
        again = evaluate(p.model, p.x, p.y, resume=True, **words)
        assert str(again.samples) == str(whole.samples)
        assert [r for r in again.rows if r.metric != "seconds"] == [r for r in whole.rows if r.metric != "seconds"]
    with pytest.raises(InputError, match="its batch_size is 40, here it is 50"):
        evaluate(p.model, p.x, p.y, resume=True, **{**words, "batch_size": 50})


class Typed(nn.Module):
    """A model that gives its logits in another type."""

    def __init__(self, model, dtype):
        super().__init__()
        self.model, self.dtype = model, dtype

    def forward(self, x):
        return self.model(x).to(self.dtype)


@pytest.mark.parametrize("norm", ["linf", "l2", "l1"])
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16, torch.float16])
def test_the_type_of_the_logits_stays_out_of_the_points(problem, norm, dtype):
    p = problem("convolutional", n=16)  # whose weights are float32: points in another type would be an error
    suite = [parse_recipe(f"{name},steps=3") for name in ("apgd-ce", "apgd-dlr", "apgd-t", "fab-t", "malt", "pgd")] + [
        parse_recipe("square,queries=40")
    ]
    found = evaluate(Typed(p.model, dtype), p.x, p.y, suite=suite, norm=norm, eps={"linf": 0.01, "l2": 0.1, "l1": 0.5}[norm])
    assert found.accuracy("square") > 0  # the later attacks had something to do
    if dtype == torch.float64:
        plain = evaluate(p.model, p.x, p.y, suite=suite, norm=norm, eps=found.rows[-1].eps)
        assert found.accuracy("square") == pytest.approx(plain.accuracy("square"), abs=1 / 16)


@pytest.mark.parametrize("norm", ["l2", "l1"])
def test_the_suite_fast_is_refused_where_it_is_not_one(problem, norm):
    p = problem("linear", n=4)
    with pytest.raises(InputError, match=f"'fast' is for linf: in {norm} it leaves far too much; choose autoattack"):
        evaluate(p.model, p.x, p.y, suite="fast", norm=norm, eps=0.1)
