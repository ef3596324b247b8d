"""Images per second of our training loop against a plain one, written as public training scripts are: a ratio, in alternation.

    python tests/benchmarks/training_speed.py --arch two-conv --threads 1

The plain loop is the usual tutorial: a DataLoader over single images with torchvision's random crop and flip, and for adversarial
training ten steps of PGD through loss.backward(), which also computes the gradients of the weights. Both train the same network with
the same optimiser on the same random images, epoch by epoch in turn; neither measures held-out images. CPU time with one thread, wall
time otherwise.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable

import torch
from regularizer_cost import clock_of
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from robench.core.memory import keep_freed_memory
from robench.data import Images
from robench.models import build_network
from robench.training.epochs import fit
from robench.training.settings import plan_of, resolved_settings
from robench.training.steps import begin_training
from robench.training.types import Step

EPS, STEPS = 8 / 255, 10


class Photos(Dataset):  # type: ignore[type-arg]
    """Images one by one through torchvision's transforms."""

    def __init__(self, x: Tensor, y: Tensor) -> None:
        self.x, self.y = x, y
        self.change = transforms.Compose(
            [transforms.ToPILImage(), transforms.RandomCrop(32, padding=4), transforms.RandomHorizontalFlip(), transforms.ToTensor()]
        )

    def __len__(self) -> int:
        return len(self.x)

    def __getitem__(self, row: int) -> tuple[Tensor, Tensor]:
        return self.change(self.x[row]), self.y[row]


def attacked(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """PGD as tutorials write it."""
    delta = torch.empty_like(x).uniform_(-EPS, EPS)
    for _ in range(STEPS):
        delta.requires_grad_()
        F.cross_entropy(model((x + delta).clamp(0, 1)), y).backward()
        delta = (delta.detach() + 2.5 * EPS / STEPS * delta.grad.sign()).clamp(-EPS, EPS)
        model.zero_grad()
    return (x + delta).clamp(0, 1).detach()


def plain_epoch(model: nn.Module, images: Images, batch_size: int, adversarial: bool) -> None:
    """One epoch of the plain loop."""
    optimizer = torch.optim.SGD(model.parameters(), 0.01, momentum=0.9, weight_decay=5e-4, nesterov=True)
    model.train()
    for x, y in DataLoader(Photos(images.x, images.y), batch_size, shuffle=True, drop_last=True):
        given = attacked(model, x, y) if adversarial else x
        optimizer.zero_grad()
        F.cross_entropy(model(given), y).backward()
        optimizer.step()


def our_epoch(model: nn.Module, images: Images, batch_size: int, adversarial: bool) -> None:
    """One epoch of ours."""
    words = {
        "objective": "pgd-at" if adversarial else "standard", "epochs": 1, "batch_size": batch_size, "optimizer": "sgd", "lr": 0.01,
        "augment": "crop-flip", "eps": EPS,
    }  # fmt: skip
    plan = plan_of(resolved_settings("small", words)[0], 0, None)
    for event in fit(begin_training(model, plan), plan, images, images.take(slice(0, 0))):
        assert not isinstance(event, Step) or event.terms


def main() -> None:
    """Prints a line for standard and one for adversarial training."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", default="two-conv")
    parser.add_argument("--n", type=int, default=1000)
    parser.add_argument("--batch-size", type=int, default=100)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    keep_freed_memory()
    torch.manual_seed(0)
    x = torch.randint(0, 256, (given.n, 3, 32, 32), dtype=torch.uint8)
    images = Images("random", "train", x, torch.arange(given.n) % 10, torch.arange(given.n), tuple("0123456789"))
    clock = clock_of(torch.device("cpu"), given.threads)
    for adversarial in (False, True):
        loops: list[Callable[[nn.Module, Images, int, bool], None]] = [our_epoch, plain_epoch]
        models = [build_network(given.arch, classes=10, shape=(3, 32, 32)) for _ in loops]
        taken: list[list[float]] = [[], []]
        for _ in range(given.repeats + 1):
            for loop, model, seconds in zip(loops, models, taken, strict=True):
                start = clock()
                loop(model, images, given.batch_size, adversarial)
                seconds.append(clock() - start)
        ours, theirs = (statistics.median(seconds[1:]) for seconds in taken)
        name = "PGD-10" if adversarial else "standard"
        print(f"{given.arch}, {name}: ours {given.n / ours:,.0f}, plain {given.n / theirs:,.0f} images/s: {theirs / ours:.2f} times")


if __name__ == "__main__":
    main()
