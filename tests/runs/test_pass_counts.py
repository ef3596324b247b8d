"""Passes of attacks, counted before a run: they are those of the run where all images stand; no point fools the counting model."""

import pytest
import torch
from places import CHECKPOINT

import robench
from robench.attacks import ATTACKS, ENGINES, attack_for_classes
from robench.core.draws import Draws
from robench.core.recipes import Recipe, recipe_text, resolve
from robench.core.threat import Threat
from robench.core.types import AttackResult
from robench.data import load_images
from robench.evaluation.suites import suite_recipes
from robench.runs import pass_counts
from robench.runs.pass_counts import UnfooledModel, counted_passes, made_image

TINY = {"linf": 1e-7, "l2": 1e-6, "l1": 1e-5}  # radii at which no image falls
UNCOUNTED = {"malt": ",loss=ce"}  # with another loss it gives images up that have no chance: fewer passes than it may take
SUITES = {suite: [recipe_text(recipe) for recipe in suite_recipes(suite)] for suite in ("autoattack", "autoattack-plus", "autoattack-rand")}


def images_and_model(n=3):
    return load_images("shapes", "test", n=n), robench.load_model(CHECKPOINT)


def planned_and_real(recipe, norm, **how):
    images, model = images_and_model()
    asked = {"recipe": recipe, "norm": norm, "eps": TINY[norm], **how}
    costs = robench.plan_costs(robench.attack, model, images, **asked)
    (planned,) = [stage.passes for stage in costs.stages if stage.kind == "attack"]
    rows = {row.metric: row.value for row in robench.attack(model, images, **asked).rows if row.probe not in ("clean",)}
    assert rows["accuracy"] == 1
    return planned, (rows["forwards"] / len(images), rows["backwards"] / len(images))


@pytest.mark.parametrize("norm", TINY)
@pytest.mark.parametrize("name", ATTACKS)
def test_the_passes_of_each_attack_are_those_of_a_run_in_which_all_images_stand(name, norm):
    planned, real = planned_and_real(name + UNCOUNTED.get(name, ""), norm)
    if name == "square" and norm == "linf":  # a candidate that is the best point costs no pass: the plan says the most
        assert real[1] == planned[1] == 0
        assert 0.8 * planned[0] < real[0] <= planned[0] == 5002
    else:
        assert planned == real


@pytest.mark.parametrize("recipe", dict.fromkeys(one for recipes in SUITES.values() for one in recipes if one not in ATTACKS))
def test_the_passes_of_recipes_of_suites_are_those_of_a_run(recipe):
    planned, real = planned_and_real(recipe, "linf")
    assert planned == real


@pytest.mark.parametrize("recipe", ["pgd,steps=3,restarts=2,target=second", "apgd,steps=7,eot=3,target=random", "fab-t,targets=2,steps=4"])
def test_options_change_the_passes_as_they_change_those_of_a_run(recipe):
    planned, real = planned_and_real(recipe, "linf")
    assert planned == real


@pytest.mark.parametrize("recipe", ["apgd-ce,steps=6", "fab-t,steps=3,targets=2", "square,queries=30", "apgd-t,steps=4,targets=2"])
def test_the_passes_of_the_reference_engine_are_counted_too(recipe):
    planned, real = planned_and_real(recipe, "linf", engine="reference")
    assert planned == pytest.approx(real, abs=1)  # the run splits what it spends on a batch in whole numbers


def test_the_large_radius_schedule_of_l1_is_counted():
    planned, real = planned_and_real("apgd-ce,restarts=2,large_eps=true,steps=12", "l1")
    assert planned == real


def test_an_attack_that_takes_too_long_is_counted_with_fewer_steps(monkeypatch):
    attack, threat = resolve(Recipe("fab", None, {"steps": 60}), ATTACKS, "attack"), Threat("linf", 0.03)
    whole = counted_passes(attack, 10, (3, 16, 16), threat)
    asked, count = [], pass_counts.passes_on_unfooled

    def impatient(function, *rest):
        asked.append(pass_counts.options_of(function)["steps"])
        return None if asked[-1] == 60 else count(function, *rest)

    monkeypatch.setattr(pass_counts, "passes_on_unfooled", impatient)
    assert counted_passes(attack, 10, (3, 16, 16), threat) == whole
    assert asked == [60, *pass_counts.COUNTED_STEPS]


@pytest.mark.parametrize("classes", [2, 10, 1000])
@pytest.mark.parametrize("threat", [Threat("linf", 8 / 255), Threat("l2", 0.5), Threat("l1", 2)], ids=str)
def test_no_point_of_the_threat_fools_the_counting_model(threat, classes):
    image = made_image((3, 12, 12))
    model = UnfooledModel(image, classes, 0, threat)
    x, y = image.expand(16, -1, -1, -1).clone(), torch.zeros(16, dtype=torch.int64)
    draws = Draws(0, torch.arange(16), "test")
    worst = ATTACKS["apgd"](model, x, y, threat, draws, loss="margin", steps=20)
    assert not worst.fooled.any()
    assert (model(threat.surface(x, draws)).argmax(1) == 0).all()
    outside = ATTACKS["apgd"](model, x, y, Threat(threat.norm, 10 * threat.eps), draws, loss="margin", steps=20)
    assert outside.fooled.any(), "there is a boundary to search for"


def careless(model, x, y, threat, draws, *, steps=3):
    for _ in range(steps):
        model(x.requires_grad_()).sum().backward()
    none = torch.zeros(len(x), dtype=torch.int64)
    return AttackResult(x.detach(), none.bool(), none - 1, none, none, none.bool())


def choosy(model, x, y, threat, draws):
    return model.features(x)


def test_an_attack_of_ones_own_is_counted_by_what_it_does_and_not_by_what_it_says():
    threat = Threat("linf", 0.03)
    counted = counted_passes(careless, 10, (3, 8, 8), threat)
    assert (counted.forwards, counted.backwards) == (3, 3)
    assert counted_passes(choosy, 10, (3, 8, 8), threat) is None


@pytest.mark.parametrize("name", ["apgd-t", "fab-t", "malt"])
def test_few_classes_mean_few_targets(name):
    two, ten = (
        counted_passes(attack_for_classes(ENGINES["robench"][name], classes), classes, (3, 8, 8), Threat("linf", 0.03))
        for classes in (2, 10)
    )
    assert two.forwards < ten.forwards
