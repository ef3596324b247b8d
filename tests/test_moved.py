"""Modules of before, imported under their old names, are those of today."""

import importlib
import sys

import pytest

from robench.core.moved import PLACES


@pytest.mark.parametrize("old", PLACES)
def test_an_old_name_is_the_module_of_today_and_says_so(old):
    sys.modules.pop(f"robench.{old}", None)
    today = importlib.import_module(f"robench.{PLACES[old]}")
    with pytest.warns(FutureWarning, match=rf"robench\.{old} is now robench\.{PLACES[old]}"):
        module = importlib.import_module(f"robench.{old}")
    assert module is today
    assert module.__spec__.name == module.__name__ == f"robench.{PLACES[old]}"


def test_a_name_that_never_was_is_not_found():
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("robench.nothing")
