"""Augmentation: every sample its own crop and its own square cut out, the same for the same ids and step, and equal to a plain loop."""

import pytest
import torch
from scipy import stats
from torch.nn import functional as F

from robench.core.draws import Draws
from robench.core.errors import InputError
from robench.data.augment import AUGMENTATIONS, crop_flip, cutout


def numbered(n=64, channels=3, height=8, width=10):
    """Images whose pixels are all different and none zero."""
    return torch.arange(1, 1 + n * channels * height * width, dtype=torch.float32).view(n, channels, height, width)


def looped(x, draws, step, padding, flip):
    """The same augmentation, one image at a time, by slicing and flipping."""
    corners = draws.child("augment/crop").integers(2 * padding + 1, (2,), step).tolist()
    mirrored = draws.child("augment/flip").integers(2, (1,), step)[:, 0].tolist()
    out = []
    for image, (top, left), mirror in zip(x, corners, mirrored, strict=True):
        cut = F.pad(image, [padding] * 4)[:, top : top + x.shape[2], left : left + x.shape[3]]
        out.append(cut.flip(-1) if flip and mirror else cut)
    return torch.stack(out)


@pytest.mark.parametrize(("padding", "flip"), [(4, True), (4, False), (0, True), (1, True)])
def test_the_batch_equals_a_loop_over_its_samples(padding, flip):
    x, draws = numbered(), Draws(3, torch.arange(64), "train")
    assert torch.equal(crop_flip(x, draws, 7, padding=padding, flip=flip), looped(x, draws, 7, padding, flip))


def test_every_sample_has_its_own_crop_and_all_crops_occur():
    x = numbered(1).expand(2000, -1, -1, -1)
    different = {tuple(image.flatten().tolist()) for image in crop_flip(x, Draws(0, torch.arange(2000)), 0, padding=2)}
    assert len(different) == 5 * 5 * 2


def test_the_result_depends_on_id_and_step_and_on_nothing_else():
    x, ids = numbered(), torch.arange(64)
    whole = crop_flip(x, Draws(0, ids), 5)
    order = torch.randperm(64, generator=torch.Generator().manual_seed(1))
    assert torch.equal(crop_flip(x[order], Draws(0, ids[order]), 5), whole[order])
    assert torch.equal(crop_flip(x[:3], Draws(0, ids[:3]), 5), whole[:3])
    assert not torch.equal(crop_flip(x, Draws(0, ids), 6), whole)
    assert not torch.equal(crop_flip(x, Draws(1, ids), 5), whole)


def test_pixels_that_come_in_are_zero_and_none_is_repeated():
    x = numbered()
    moved = crop_flip(x, Draws(0, torch.arange(64)), 0)
    for before, after in zip(x, moved, strict=True):
        kept = after[after != 0]
        assert len(kept.unique()) == len(kept)
        assert set(kept.tolist()) <= set(before.flatten().tolist())


def test_half_of_the_images_are_mirrored():
    x = numbered(1).expand(4000, -1, -1, -1)
    share = (AUGMENTATIONS["flip"](x, Draws(0, torch.arange(4000))) != x).flatten(1).any(1).float().mean()
    assert abs(share - 0.5) < 0.03


def test_crop_never_mirrors_and_none_changes_nothing():
    x, draws = numbered(), Draws(0, torch.arange(64))
    moved = AUGMENTATIONS["crop"](x, draws, 1)
    steps = (moved[..., 1:] - moved[..., :-1])[(moved[..., 1:] != 0) & (moved[..., :-1] != 0)]
    assert (steps == 1).all()
    assert AUGMENTATIONS["none"](x, draws, 1) is x


def spots(hidden):
    """The rows and columns of a mask (H, W) in which something is hidden."""
    return hidden.any(1).nonzero().squeeze(1).tolist(), hidden.any(0).nonzero().squeeze(1).tolist()


@pytest.mark.parametrize("size", [1, 3, 4, 20])
def test_cutout_equals_a_loop_that_blackens_one_square_an_image(size):
    x, draws = numbered(), Draws(3, torch.arange(64), "train")
    expected = x.clone()
    for image, row, column in zip(
        expected,
        *(draws.child("augment/cutout", axis).integers(n, (), 7).tolist() for axis, n in (("rows", 8), ("columns", 10))),
        strict=True,
    ):
        top, left = row - size // 2, column - size // 2
        image[:, max(top, 0) : top + size, max(left, 0) : left + size] = 0
    assert torch.equal(cutout(x, draws, 7, size=size), expected)


def test_cutout_hides_one_square_of_half_the_shorter_side_cut_at_the_border_and_the_same_in_all_channels():
    x = numbered(500)
    gone = cutout(x, Draws(0, torch.arange(500)), 1) == 0
    assert torch.equal(gone, gone[:, :1].expand_as(gone))
    whole = 0
    for mask in gone[:, 0]:
        rows, columns = spots(mask)
        assert rows == list(range(rows[0], rows[-1] + 1))
        assert columns == list(range(columns[0], columns[-1] + 1))
        assert mask.sum() == len(rows) * len(columns)
        assert len(rows) == 4 or (len(rows) in (2, 3) and (rows[0] == 0 or rows[-1] == 7))
        assert len(columns) == 4 or (len(columns) in (2, 3) and (columns[0] == 0 or columns[-1] == 9))
        whole += mask.sum() == 16
    assert abs(whole / 500 - 5 / 8 * 7 / 10) < 0.08


def test_cutout_is_centred_at_every_pixel_alike():
    drawn = cutout(numbered(1).expand(8000, -1, -1, -1), Draws(0, torch.arange(8000)), size=1)[:, 0] == 0
    assert (drawn.flatten(1).sum(1) == 1).all()
    counts = drawn.flatten(1).sum(0)
    assert stats.chisquare(counts.numpy()).pvalue > 1e-3


@pytest.mark.parametrize("name", ["cutout", "crop-flip-cutout"])
def test_cutout_depends_on_id_and_step_and_leaves_its_input_alone(name):
    x, ids, augment = numbered(), torch.arange(64), AUGMENTATIONS[name]
    before, whole = x.clone(), augment(x, Draws(0, ids), 5)
    some = torch.tensor([40, 3, 17])
    assert torch.equal(augment(x[some], Draws(0, ids[some]), 5), whole[some])
    assert not torch.equal(augment(x, Draws(0, ids), 6), whole)
    assert not torch.equal(augment(x, Draws(1, ids), 5), whole)
    assert torch.equal(x, before)


def test_crop_flip_cutout_is_one_after_the_other():
    x, draws = numbered(height=32, width=32), Draws(0, torch.arange(64))
    moved, both = crop_flip(x, draws, 2), AUGMENTATIONS["crop-flip-cutout"](x, draws, 2)
    assert torch.equal(both, cutout(moved, draws, 2))
    assert torch.equal(both[both != 0], moved[both != 0])
    assert (both != moved).flatten(1).any(1).all()


@pytest.mark.parametrize("size", [0, -1, 2.5])
def test_a_cutout_without_size_is_refused(size):
    with pytest.raises(InputError, match="the size of cutout"):
        cutout(numbered(), Draws(0, torch.arange(64)), size=size)


def test_images_keep_their_type_and_size():
    x = torch.randint(0, 256, (5, 1, 28, 28), dtype=torch.uint8)
    for augment in AUGMENTATIONS.values():
        out = augment(x, Draws(0, torch.arange(5)), 2)
        assert out.dtype == torch.uint8
        assert out.shape == x.shape
