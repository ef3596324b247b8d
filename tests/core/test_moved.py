"""Modules of before, imported under their old names, are those of today."""

import importlib
import sys

import pytest
from places import ROOT

from robench.core.moved import NEW_PLACES


@pytest.mark.parametrize("old", NEW_PLACES)
def test_an_old_name_is_the_module_of_today_and_says_so(old):
    sys.modules.pop(f"robench.{old}", None)
    today = importlib.import_module(f"robench.{NEW_PLACES[old]}")
    with pytest.warns(FutureWarning, match=rf"robench\.{old} is now robench\.{NEW_PLACES[old]}"):
        module = importlib.import_module(f"robench.{old}")
    assert module is today
    assert module.__spec__.name == module.__name__ == f"robench.{NEW_PLACES[old]}"


@pytest.mark.parametrize(("old", "new"), [("audits.inequality", "scores.inequality"), ("figures.style", "report.figures.style")])
def test_a_module_of_a_moved_package_is_the_one_of_today(old, new):
    for name in (old, old.partition(".")[0]):
        sys.modules.pop(f"robench.{name}", None)
    today = importlib.import_module(f"robench.{new}")
    with pytest.warns(FutureWarning) as caught:
        assert importlib.import_module(f"robench.{old}") is today
    assert f"robench.{old} is now robench.{new}" in str(caught[-1].message)


def test_no_module_of_today_has_a_name_of_before():
    for old in NEW_PLACES:
        place = ROOT / "robench" / old.replace(".", "/")
        assert not place.exists()
        assert not place.with_suffix(".py").exists()


@pytest.mark.parametrize("name", ["robench.audits.nothing", "robench.errors.nothing"])
def test_a_module_that_a_moved_one_never_held_is_not_found(name):
    sys.modules.pop(name.rpartition(".")[0], None)
    with pytest.warns(FutureWarning), pytest.raises(ModuleNotFoundError):
        importlib.import_module(name)


def test_a_name_that_never_was_is_not_found():
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("robench.nothing")


@pytest.mark.parametrize(
    ("module", "old", "new"),
    [
        ("core.types", "Found", "AttackResult"),
        ("attacks", "Found", "AttackResult"),
        ("core.types", "Explained", "ExplainedImages"),
        ("objectives.gradients", "differentiable", "points_and_logits"),
        ("objectives.gradients", "square", "squared_vjp_norm"),
        ("objectives.adversarial", "climb", "projected_ascent"),
        ("data", "load", "load_images"),
        ("models", "load", "load_with_origin"),
    ],
)
def test_a_function_that_the_pages_for_own_code_named_before_is_found_under_its_old_name(module, old, new):
    home = importlib.import_module(f"robench.{module}")
    with pytest.warns(FutureWarning, match=rf"robench\.{module}\.{old} is now {new}"):
        assert getattr(home, old) is getattr(home, new)
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        home.nothing  # noqa: B018
