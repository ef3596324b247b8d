"""The built-in set: what an image is a function of, that masks and outlines are right, and that classes and splits are as promised."""

import math

import pytest
import torch

from robench.core.errors import InputError
from robench.data import load_images, shapes
from robench.data.shapes import SHAPE_CLASSES, SHAPES, shape_images

DIGEST = "aaa365a215ec5e8f86e6a4fe4020f724e482bccd18a6317c7ffea748a23c7168"  # of the first 20 test images


def test_an_image_does_not_depend_on_how_many_are_drawn_nor_on_chunks_nor_order(monkeypatch):
    whole = shape_images("test", tuple(range(700)))
    monkeypatch.setattr(shapes, "CHUNK", 7)
    for ids in [(3,), (699, 3, 0), tuple(range(20))]:
        few = shape_images("test", ids)
        assert torch.equal(few.x, whole.x[list(ids)])
        assert torch.equal(few.y, whole.y[list(ids)])
        assert torch.equal(few.masks, whole.masks[list(ids)])
        assert few.ids.tolist() == list(ids)


def test_the_official_set_is_the_one_of_seed_0_whatever_the_seed_of_the_draws():
    assert torch.equal(load_images("shapes", n=10, seed=5).x, shape_images("test", tuple(range(10)), 0).x)
    assert not torch.equal(shape_images("test", (0,), 1).x, shape_images("test", (0,), 0).x)


def test_the_images_have_not_changed_since_the_first_release():
    assert load_images("shapes", n=20).sha256 == "1291513ce12fefc2bc1367aac53425dee18db2a0b46288da9c7267d52fc590bd"


def test_sizes_types_and_names():
    train, test = load_images("shapes", "train"), load_images("shapes", "test")
    assert (train.x.shape, train.x.dtype) == ((10_000, 3, 32, 32), torch.uint8)
    assert (test.x.shape, test.masks.shape, test.masks.dtype) == ((2_000, 3, 32, 32), (2_000, 32, 32), torch.bool)
    assert (test.name, test.split, test.classes) == ("shapes", "test", SHAPE_CLASSES)
    assert len(SHAPE_CLASSES) == 10


def test_more_images_than_the_usual_number_continue_the_set():
    assert torch.equal(load_images("shapes", n=2_050).x[:2_000], load_images("shapes").x)


def test_no_image_occurs_twice_in_or_between_the_splits():
    both = [row.numpy().tobytes() for split in ("train", "test") for row in load_images("shapes", split, n=2_000).x]
    assert len(set(both)) == 4_000


def test_every_ten_images_show_every_class_once_in_changing_order():
    runs = load_images("shapes", "train").y.view(-1, 10)
    assert torch.equal(runs.sort(1).values, torch.arange(10).expand(1_000, 10))
    assert len(runs.unique(dim=0)) > 990
    assert (runs.float().mean(0) - 4.5).abs().max() < 0.5


def test_the_object_is_lighter_than_its_surroundings_by_several_times_the_perturbation():
    images = load_images("shapes")
    pixels, masks = images.pixels(slice(None)).mean(1), images.masks.float()
    inside = (pixels * masks).sum((1, 2)) / masks.sum((1, 2))
    outside = (pixels * (1 - masks)).sum((1, 2)) / (1 - masks).sum((1, 2))
    assert (inside - outside).min() > 5 * 8 / 255


def test_masks_are_where_the_pixels_say_the_object_is():
    """Without texture, grain and distractors two colours are left, blended where a pixel is cut: a threshold half way finds the object."""
    still = {"TEXTURE": 0.0, "GRAIN": 0.0, "DISTRACTORS": 0}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in still.items():
            patch.setattr(shapes, name, value)
        images = shape_images("test", tuple(range(5_000, 5_200)))
    pixels = images.pixels(slice(None))
    low, high = pixels.flatten(2).amin(2), pixels.flatten(2).amax(2)
    channel = (high - low).argmax(1)  # the one that tells them apart best
    rows = torch.arange(len(images))
    found = pixels[rows, channel] > ((low + high) / 2)[rows, channel].view(-1, 1, 1)
    assert (found == images.masks).float().mean() > 0.999


def test_no_object_is_cut_by_the_edge_by_more_than_a_corner():
    masks = load_images("shapes").masks
    rim = masks.sum((1, 2)) - masks[:, 1:-1, 1:-1].sum((1, 2))
    assert (rim > 0).float().mean() < 0.01
    assert rim.max() <= 4


@pytest.mark.parametrize("name", SHAPE_CLASSES)
def test_each_outline_lies_in_the_unit_circle_and_distances_are_never_too_long(name):
    """A distance may not grow faster than the place moves, or the soft edge would be narrower than a pixel."""
    axis = torch.linspace(-1.5, 1.5, 301)
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    distance = SHAPES[name](x, y)
    assert (torch.hypot(x, y)[distance < 0] < 1.1).all()
    assert (distance.diff(dim=0).abs() <= 0.01 + 1e-5).all()
    assert (distance.diff(dim=1).abs() <= 0.01 + 1e-5).all()


@pytest.mark.parametrize(
    ("name", "area"),
    [
        ("disk", math.pi * 0.86**2),
        ("square", 1.44**2),
        ("triangle", 3 * math.sqrt(3) * 0.53**2),
        ("cross", 4 * (2 * 0.95 * 0.28) - 0.56**2),
        ("ring", math.pi * (0.92**2 - 0.28**2)),
        ("bar", 4 * 0.92 * 0.44),
        ("star", 5 * 1.08 * 0.4 * math.sin(math.pi / 5)),
    ],
)
def test_areas_are_those_of_geometry(name, area):
    axis = (torch.arange(1200) + 0.5) / 400 - 1.5
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    assert float((SHAPES[name](x, y) < 0).float().mean()) * 9 == pytest.approx(area, rel=2e-3)


def test_an_unknown_split_is_refused():
    with pytest.raises(InputError, match="no split 'dev'"):
        load_images("shapes", "dev")
