"""Where the middle of an image is cut, and what a preprocessing says of itself."""

import json

import pytest

from robench.core.errors import InputError
from robench.core.preprocessing import Preprocessing, chosen_preprocessing, preprocessing_from_plain


@pytest.mark.parametrize("rest", range(9))
def test_half_a_pixel_goes_to_the_even_one_as_in_torchvision_or_to_the_lower_one_as_in_transformers(rest):
    even, lower = Preprocessing(None, (10, 12)), Preprocessing(None, (10, 12), corner="lower")
    assert even.crop_corner(10 + rest, 12) == (round(rest / 2), 0)
    assert lower.crop_corner(10, 12 + rest) == (0, rest // 2)
    assert (even == lower, even.words() == lower.words()) == (False, False)


@pytest.mark.parametrize("corner", ["even", "lower"])
def test_a_preprocessing_is_read_back_as_it_was_written(corner):
    own = Preprocessing((20, 30), (10, 12), "bicubic", "me", corner)
    assert preprocessing_from_plain(json.loads(json.dumps(own.plain())), "me") == own
    assert ("corner" in own.plain()) == (corner == "lower")  # what was written before there were corners reads the same
    assert chosen_preprocessing(own, None, None, "box")[0] == Preprocessing((20, 30), (10, 12), "box", corner=corner)


@pytest.mark.parametrize("corner", ["upper", 1, None])
def test_another_corner_is_refused(corner):
    with pytest.raises(InputError):
        preprocessing_from_plain({"resize": 4, "crop": [4, 4], "interpolation": "box", "corner": corner}, "me")
