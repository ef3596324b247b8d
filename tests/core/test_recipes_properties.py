"""Properties of recipes: whatever is written is read or refused with one sentence; what is read is written, and read again, as the same."""

import math

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from properties import TEXTS

from robench.attacks import ATTACKS
from robench.core.errors import InputError
from robench.core.recipes import (
    KIND_WORDS,
    Recipe,
    did_you_mean,
    eps_text,
    lookup,
    parse_fraction,
    parse_literal,
    parse_recipe,
    recipe_text,
    resolve,
    split_recipes,
    value_text,
)
from robench.corruptions import CORRUPTIONS
from robench.explainers import EXPLAINERS
from robench.objectives import OBJECTIVES, REGULARIZERS
from robench.probes import PROBES
from robench.scores import SCORES

TABLES = {
    "attack": ATTACKS,
    "probe": PROBES,
    "corruption": CORRUPTIONS,
    "method": EXPLAINERS,
    "score": SCORES,
    "objective": OBJECTIVES,
    "regulariser": REGULARIZERS,
}
NUMBERS = st.floats(allow_nan=False, allow_infinity=False)
WORDS = st.from_regex(r"[a-z][a-z0-9_]{0,8}", fullmatch=True).filter(lambda word: isinstance(parse_literal(word), str))
VALUES = st.booleans() | st.integers(-(10**20), 10**20) | st.floats(allow_nan=False) | WORDS
PLAIN = st.builds(
    Recipe,
    WORDS,
    st.none() | st.floats(allow_nan=False),
    st.dictionaries(WORDS, VALUES, max_size=3),
    st.sampled_from(["", *KIND_WORDS.values()]),
)
LONG_NUMBER = "9" * 400  # beyond what a float holds
LONG_NAME = "a" * 300  # beyond what the name of a file holds


@given(TEXTS)
@example(f"sagr={LONG_NUMBER}")
@example(f"pgd,steps={LONG_NUMBER}")
@example(f"abc:{LONG_NAME}.py:f")
@example("\0.py:f")
def test_any_text_is_read_or_refused(text):
    try:
        recipe = parse_recipe(text)
    except InputError:
        return
    again = parse_recipe(recipe_text(recipe))
    assert recipe_text(again) == recipe_text(recipe)
    assert isinstance(recipe.title, str)


@pytest.mark.parametrize("what", TABLES)
@given(
    text=TEXTS
    | st.sampled_from(sorted({name for table in TABLES.values() for name in table})).flatmap(lambda name: TEXTS.map(name.__add__))
)
@example(f"{LONG_NAME}.py:f")
def test_any_text_names_a_function_or_is_refused(what, text):
    try:
        assert callable(resolve(parse_recipe(text), TABLES[what], what))
    except InputError:
        return


@given(PLAIN, st.none() | PLAIN)
def test_a_recipe_is_read_from_its_text_as_the_same(recipe, on):
    recipe = Recipe(recipe.name, recipe.weight, recipe.options, recipe.kind, on)
    assert parse_recipe(recipe_text(recipe)) == recipe


@given(st.lists(TEXTS, max_size=3))
def test_sentences_that_are_parted_give_the_text_when_they_are_joined(sentences):
    parts = split_recipes(sentences)
    assert ",".join(parts) == ",".join(sentences)
    assert split_recipes(parts) == parts


@given(st.floats())
@example(1.2345678901e307)
@example(math.nan)
def test_a_number_is_read_from_its_text_as_the_same(value):
    again = float(parse_literal(value_text(value)))
    assert again == value or (math.isnan(again) and math.isnan(value))


@given(st.integers(0, 2**32), st.sampled_from([3, 6, 7, 9, 255]))
def test_a_fraction_is_read_from_its_text_as_the_same(above, below):
    assert parse_fraction(value_text(above / below)) == above / below


@given(st.floats(0, 10) | st.integers(0, 2550).map(lambda tenths: tenths / 2550))
def test_a_radius_is_read_from_its_text_to_six_digits(eps):
    assert math.isclose(parse_fraction(eps_text(eps)), eps, rel_tol=1e-5)


@given(TEXTS)
def test_any_text_is_a_finite_number_or_refused_as_none(text):
    try:
        assert math.isfinite(parse_fraction(text))
    except ValueError as error:
        assert "number" in str(error) or "divides" in str(error)  # noqa: PT017


@given(TEXTS, st.lists(TEXTS, max_size=4))
def test_an_unknown_name_is_refused_with_a_hint(name, known):
    if name in known:
        assert lookup(name, dict.fromkeys(known, 1), "attack") == 1
    else:
        with pytest.raises(InputError, match="unknown attack"):
            lookup(name, dict.fromkeys(known, 1), "attack")
    assert did_you_mean(name, known).startswith(": ")
