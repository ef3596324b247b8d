"""Properties of what a caller may hand over: anything is brought to its form or refused with one sentence."""

import math

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays, scalar_dtypes
from properties import TEXTS

from robench.core import inputs
from robench.core.errors import InputError
from robench.core.recipes import Recipe
from robench.core.threat import NORMS, Threat

ARRAYS = scalar_dtypes().flatmap(lambda kind: arrays(kind, array_shapes(min_dims=0, max_dims=5, min_side=0, max_side=4)))
SCALARS = st.none() | st.booleans() | st.integers() | st.floats() | TEXTS | st.binary(max_size=4) | st.just(10**400) | st.complex_numbers()
ANYTHING = SCALARS | ARRAYS | st.lists(SCALARS, max_size=3) | st.dictionaries(TEXTS, SCALARS, max_size=2) | st.just(object())
READERS = {
    "images": inputs.as_images,
    "labels": lambda value: inputs.as_labels(value, 3),
    "masks": lambda value: inputs.as_masks(value, torch.zeros(2, 3, 4, 4)),
    "model": inputs.as_model,
    "list": inputs.as_list,
    "radius": inputs.as_radius,
    "radii": inputs.as_radii,
    "seed": inputs.as_seed,
    "suite": inputs.as_suite,
    "suite list": inputs.as_suite_list,
    "whole number": lambda value: inputs.as_whole_number(value, "n", 1),
    "number": lambda value: inputs.as_number(value, "n"),
    "word": lambda value: inputs.as_word(value, "word"),
    "path": lambda value: inputs.as_path(value, "path"),
    "device": inputs.as_device,
}
KINDS = {
    "images": torch.Tensor, "labels": torch.Tensor, "masks": torch.Tensor, "model": torch.nn.Module, "list": list, "radius": float,
    "radii": list, "seed": int, "suite": str | list | Recipe, "suite list": list, "whole number": int, "number": float, "word": str,
    "path": object, "device": str,
}  # fmt: skip


@pytest.mark.parametrize("what", READERS)
@given(value=ANYTHING)
@example(value=10**400)
@example(value=np.zeros((1, 1)))
@example(value=np.zeros(1, np.complex64))
def test_anything_is_brought_to_its_form_or_refused(what, value):
    try:
        assert isinstance(READERS[what](value), KINDS[what])
    except InputError as error:
        assert str(error)  # noqa: PT017


@given(st.lists(st.sampled_from(["pgd", "fgsm,eps=1", Recipe("square", 0.5)]), max_size=4))
def test_a_suite_is_the_same_as_a_list_a_tuple_and_a_generator(recipes):
    suite = inputs.as_suite(recipes)
    assert len(suite) == len(recipes)
    assert inputs.as_suite(tuple(recipes)) == inputs.as_suite(recipe for recipe in recipes) == suite


@given(st.floats(0, 1e6) | st.integers(0, 1000) | st.integers(0, 255).map("{}/255".format))
def test_a_radius_is_the_same_however_it_is_written(eps):
    radius = inputs.as_radius(eps)
    assert math.isfinite(radius)
    assert radius >= 0
    assert inputs.as_radius(str(eps)) == inputs.as_radius(radius) == radius
    assert (
        inputs.as_radii([eps, radius])
        == inputs.as_radii(np.array(radius))
        == inputs.as_radii(torch.tensor(radius, dtype=torch.float64))
        == [radius]
    )


@given(st.lists(st.floats(0, 10), min_size=1, max_size=5))
def test_radii_rise_and_stand_once(radii):
    found = inputs.as_radii(radii)
    assert found == sorted(set(radii))
    assert inputs.as_radii(",".join(map(repr, radii))) == found


@given(TEXTS, SCALARS)
@example("linf", 10**400)
def test_a_threat_is_of_a_norm_and_a_radius_or_refused(norm, eps):
    for words in (norm, *NORMS):
        try:
            threat = Threat(words, eps)
        except InputError:
            continue
        assert threat.norm in NORMS
        assert 0 <= float(threat.eps) < math.inf


@given(st.lists(st.integers(-5, 300), min_size=1, max_size=6), st.sampled_from([np.int8, np.int16, np.int32, np.int64, np.uint8]))
def test_labels_are_the_same_as_a_list_an_array_and_a_tensor(numbers, kind):
    array = np.array(numbers).astype(kind)
    for labels in (array, torch.from_numpy(array), array.tolist(), array.astype(array.dtype.newbyteorder(">"))):
        assert inputs.as_labels(labels, len(numbers)).tolist() == array.tolist()
