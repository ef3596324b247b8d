"""Modules of before, imported under their old names, are those of today."""

import importlib
import sys

import pytest

from robench.core.moved import NEW_PLACES


@pytest.mark.parametrize("old", NEW_PLACES)
def test_an_old_name_is_the_module_of_today_and_says_so(old):
    sys.modules.pop(f"robench.{old}", None)
    today = importlib.import_module(f"robench.{NEW_PLACES[old]}")
    with pytest.warns(FutureWarning, match=rf"robench\.{old} is now robench\.{NEW_PLACES[old]}"):
        module = importlib.import_module(f"robench.{old}")
    assert module is today
    assert module.__spec__.name == module.__name__ == f"robench.{NEW_PLACES[old]}"


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
