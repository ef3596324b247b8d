"""A second network for the golden tables, the committed checkpoint with ReLU, which some methods ask for; and own functions."""

import torch
from places import CHECKPOINT
from torch import nn

import robench
from robench.core.types import AttackResult, Level


def relu() -> nn.Module:
    """The checkpoint's weights under another activation: it is still right on most of the data, and falls to other attacks."""
    model = robench.load_model(CHECKPOINT)
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.GELU):
                setattr(parent, name, nn.ReLU())
    return model


def faded(model, x, y, threat, draws):
    """An attack of one's own: the image moved to medium grey as far as the threat allows."""
    x_adv = threat.project(x, torch.full_like(x, 0.5))
    with torch.no_grad():
        fooled = model(x_adv).argmax(1) != y
    one = torch.ones_like(y)
    return AttackResult(x_adv, fooled, torch.where(fooled, 0, -1), one, 0 * one, torch.zeros_like(fooled))


def shifted(model, x, y, draws):
    """A probe of one's own: the image pushed aside by two and by four pixels."""
    one = torch.ones_like(y)
    for pixels in (2, 4):
        moved = x.roll(pixels, 3)
        with torch.no_grad():
            fooled = model(moved).argmax(1) != y
        yield Level(f"pixels={pixels}", 0, moved, fooled, one.double() * pixels / 32, one, 0 * one)


def bright(model, x, target, draws):
    """A method of one's own: where the image is bright."""
    return x - x.mean((1, 2, 3), keepdim=True)


def largest(explained):
    """A score of one's own: the largest size of a map."""
    return explained.sizes.flatten(1).amax(1)
