"""Models whose minimal adversarial distances are known in closed form, and what the tests on them share."""

from __future__ import annotations

import csv
import math
import os
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from forks import PIXEL
from torch import Tensor, nn

from robench.core.draws import Draws
from robench.core.recipes import run_user_file

SLOW_LIST = Path(__file__).parent / "slow.csv"

os.environ.setdefault("OMP_NUM_THREADS", "1")  # of the processes that tests start; two of several threads each are in one another's way
torch.set_num_threads(1)


def pytest_configure(config: pytest.Config) -> None:
    """Sets how many examples property tests try: many in `pytest -m slow`. Where they cannot run, hypothesis may be missing."""
    if find_spec("hypothesis") is not None:
        from properties import load_examples

        load_examples("slow" if config.option.markexpr == "slow" else "quick")


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Marks what tests/slow.csv lists as slow; a line of it without its test is an error, so that the list stays true."""
    with SLOW_LIST.open(newline="") as file:
        slow = {line["test"] for line in csv.DictReader(file)}
    for item in items:
        if item.nodeid in slow or (config.option.markexpr == "slow" and item.path.stem.endswith("_properties")):
            item.add_marker(pytest.mark.slow)
    if not any("::" in word for word in config.args):
        files = {item.nodeid.partition("::")[0] for item in items}
        gone = [test for test in slow - {item.nodeid for item in items} if test.partition("::")[0] in files]
        if gone:
            raise pytest.UsageError(f"tests/slow.csv lists {gone[0]}, which there is not: rename it there, or see tests/slow_list.py")


class Affine(nn.Module):
    """Two classes, z = (<w, x> + b) * (1/2, -1/2): the margin of class 0 is <w, x> + b."""

    def __init__(self, w: Tensor, b: float) -> None:
        super().__init__()
        self.w, self.b = nn.Parameter(w), nn.Parameter(torch.tensor(b))

    def forward(self, x: Tensor) -> Tensor:
        score = (x * self.w).flatten(1).sum(1) + self.b
        return torch.stack((score / 2, -score / 2), 1)


class Linear(nn.Module):
    """K classes, z_k = <w_k, x> + b_k, summed row by row: the logits of an image do not depend on its batch."""

    def __init__(self, w: Tensor, b: Tensor) -> None:
        super().__init__()
        self.w, self.b = nn.Parameter(w), nn.Parameter(b)

    def forward(self, x: Tensor) -> Tensor:
        return torch.stack([(x * w).flatten(1).sum(1) for w in self.w], 1) + self.b


@dataclass(frozen=True)
class Problem:
    """A model, images and the labels it gives them."""

    model: nn.Module
    x: Tensor
    y: Tensor

    def draws(self, seed: int = 0, key: str = "test") -> Draws:
        return Draws(seed, torch.arange(len(self.x)), key)

    def distances(self, norm: str) -> Tensor:
        """The least perturbation inside the box that reaches another class, (B,) float64; inf where there is none."""
        with torch.no_grad():
            logits = self.model(self.x).double()
        weights = self.model.w.detach().double()
        if isinstance(self.model, Affine):
            weights = torch.stack((weights / 2, -weights / 2))
        return torch.stack(
            [
                min(to_halfspace(norm, image, weights[c] - weights[label], float(z[label] - z[c])) for c in range(len(z)) if c != label)
                for image, label, z in zip(self.x.double(), self.y.tolist(), logits, strict=True)
            ]
        )


def to_halfspace(norm: str, x: Tensor, w: Tensor, needed: float) -> Tensor:
    """The least norm of a delta with <w, delta> >= needed and x + delta in [0, 1], by bisection on its one parameter, in float64."""
    a, room = w.abs().flatten(), torch.where(w > 0, 1 - x, x).flatten()
    if float((a * room).sum()) < needed:
        return torch.tensor(float("inf"), dtype=torch.float64)
    if norm == "l1":
        return fill_steepest_first(a, room, needed)
    rate = torch.ones_like(a) if norm == "linf" else a
    low, high = 0.0, float((room / rate.clamp_min(1e-12)).max())
    for _ in range(200):
        middle = (low + high) / 2
        reached = float((a * torch.minimum(middle * rate, room)).sum()) >= needed
        low, high = (low, middle) if reached else (middle, high)
    return torch.linalg.vector_norm(torch.minimum(high * rate, room), ord=float("inf") if norm == "linf" else 2)


def fill_steepest_first(a: Tensor, room: Tensor, needed: float) -> Tensor:
    """The l1 length that gains `needed`: the coordinates with the largest weights are filled one after the other."""
    length, order = 0.0, a.argsort(descending=True)
    for weight, space in zip(a[order].tolist(), room[order].tolist(), strict=True):
        if weight * space >= needed:
            return torch.tensor(length + needed / weight, dtype=torch.float64)
        length, needed = length + space, needed - weight * space
    return torch.tensor(float("inf"), dtype=torch.float64)


def affine(n: int = 12, shape: tuple[int, int, int] = (3, 8, 8), boxed: bool = False, seed: int = 0) -> Problem:
    """The affine model on images of the given shape; `boxed` puts most pixels near 0 or 1, so that the box is active."""
    g = torch.Generator().manual_seed(seed)
    w = torch.randn(shape, generator=g)
    x = 0.5 + 0.05 * torch.randn((n, *shape), generator=g)
    if boxed:
        x = (torch.rand((n, *shape), generator=g) ** 0.15 * (torch.rand((n, *shape), generator=g) < 0.5)).clamp(0, 1)
    model = Affine(w, -float((x * w).flatten(1).sum(1).quantile(0.5)))
    return Problem(model, x, model(x).argmax(1).detach())


def linear(n: int = 24, classes: int = 5, shape: tuple[int, int, int] = (3, 6, 6), seed: int = 0) -> Problem:
    """A K-class linear model on uniform images, every class within reach."""
    g = torch.Generator().manual_seed(seed)
    w = torch.randn((classes, *shape), generator=g)
    x = torch.rand((n, *shape), generator=g)
    model = Linear(w, -w.flatten(1).sum(1) / 2)
    return Problem(model, x, model(x).argmax(1).detach())


def convolutional(n: int = 16, classes: int = 10, shape: tuple[int, int, int] = (3, 8, 8), seed: int = 0) -> Problem:
    """A small random network with batch norm in eval mode, and the labels it gives."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        features = 8 * (shape[1] - 2) * (shape[2] - 2)
        network = nn.Sequential(
            nn.Conv2d(shape[0], 8, 3),
            nn.BatchNorm2d(8),
            nn.ReLU(),
            nn.Flatten(),
            nn.Linear(features, 24),
            nn.Tanh(),
            nn.Linear(24, classes),
        )
        x = torch.rand(n, *shape)
    model = network.eval()
    return Problem(model, x, model(x).argmax(1).detach())


def dense(n: int = 8, classes: int = 10, shape: tuple[int, int, int] = (1, 6, 6), seed: int = 0) -> Problem:
    """A random two-layer network, quick on few images, and the labels it gives."""
    g = torch.Generator().manual_seed(seed)
    network = nn.Sequential(nn.Flatten(), nn.Linear(math.prod(shape), 24), nn.Tanh(), nn.Linear(24, classes))
    for parameter in network.parameters():
        parameter.data = torch.randn(parameter.shape, generator=g) * 0.3
    x = torch.rand((n, *shape), generator=g)
    return Problem(network, x, network(x).argmax(1).detach())


MAKERS = {"affine": affine, "linear": linear, "convolutional": convolutional, "dense": dense}


@pytest.fixture
def problem():
    """Makes a Problem: problem("affine", boxed=True), problem("linear", classes=3), problem("convolutional")."""
    return lambda kind, **options: MAKERS[kind](**options)


@pytest.fixture
def data_dir() -> Path:
    """The folder of the real images, or a skip."""
    if not os.environ.get("ROBENCH_DATA"):
        pytest.skip("ROBENCH_DATA is not set")
    return Path(os.environ["ROBENCH_DATA"])


@pytest.fixture
def reference(data_dir: Path) -> dict[str, np.ndarray]:
    """Images of the published generator of corruptions: clean and under every corruption and severity, (B, H, W, C) uint8."""
    with np.load(data_dir / "cifar_c_reference_images.npz") as file:
        return dict(file)


@pytest.fixture
def no_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leaves the drawing out, most of the time of a call on few images; other tests look at pictures."""
    monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda figure, file, **how: file.write(PIXEL))


@pytest.fixture
def zoo() -> ModuleType:
    """The module of independently trained models, or a skip."""
    if not os.environ.get("ROBENCH_MODELS"):
        pytest.skip("ROBENCH_MODELS is not set")
    return run_user_file(Path(os.environ["ROBENCH_MODELS"]) / "zoo.py")
