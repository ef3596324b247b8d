"""What the tests of corruptions share: draws, images to corrupt, grey levels."""

import numpy as np
import torch
from scipy import ndimage

from robench.draws import Draws


def draws(n, seed=0):
    """Draws of the samples 0 to n - 1."""
    return Draws(seed, torch.arange(n), "test")


def tensor(images):
    """8-bit images (B, H, W, C) as x."""
    return torch.from_numpy(images).movedim(3, 1).to(torch.float32) / 255


def grey(x):
    """The grey levels of x, (B, C, H, W) int64."""
    return (x * 255).round().long()


def scene(n=4, height=32, width=32, channels=3, seed=0):
    """Images of smooth colours with flat black and white parts and some noise, x of whole grey levels."""
    g = np.random.default_rng(seed)
    smooth = ndimage.gaussian_filter(g.normal(size=(n, channels, height, width)), (0, 0, 4, 4)) * 6 + 0.5
    images = np.clip(smooth + g.normal(size=smooth.shape) * 0.05, 0, 1)
    images[:, :, : height // 6], images[:, :, :, -width // 6 :] = 1.0, 0.0
    return torch.from_numpy(np.round(images * 255)).to(torch.float32) / 255


def flat(level, side=32, n=1, channels=3):
    """Images of one grey level."""
    return torch.full((n, channels, side, side), level / 255)
