"""Augmentation: every sample its own crop, the same for the same ids and step, and equal to a plain loop."""

import pytest
import torch
from torch.nn import functional as F

from robench.data.augment import AUGMENTATIONS, crop_flip
from robench.draws import Draws


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


def test_images_keep_their_type_and_size():
    x = torch.randint(0, 256, (5, 1, 28, 28), dtype=torch.uint8)
    for augment in AUGMENTATIONS.values():
        out = augment(x, Draws(0, torch.arange(5)), 2)
        assert out.dtype == torch.uint8
        assert out.shape == x.shape
