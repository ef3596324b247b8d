"""A property of model names: whatever is written is loaded or refused with one sentence."""

import pytest
from hypothesis import example, given
from properties import TEXTS, new_folder

from robench.core.errors import InputError
from robench.models import load_model

LONG_NAME = "a" * 300  # beyond what the name of a file holds


@given(TEXTS)
@example(LONG_NAME)
@example(f"{LONG_NAME}.py:f")
@example(f"{LONG_NAME}:f")
@example(f"transfer:{LONG_NAME}")
@example("\0.pt")
def test_any_name_of_a_model_that_is_not_there_is_refused(name):
    with new_folder() as folder, pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        with pytest.raises(InputError):
            load_model(name)
