"""Time of saliency maps with their Gini, and of integrated gradients, over the bare passes; and against Captum image by image.

python tests/benchmarks/saliency_cost.py resnet20_standard --n 2000 --rounds 5

Measured in alternation in one process, every other round in reverse order; printed are the median seconds, and the median over the rounds
of a ratio:
  maps and Gini         n images in chunks, over one bare forward and backward pass of each chunk; target: at most 1.15
  image by image        Captum's Saliency called with one image and a Gini in numpy, as Quantus does, over ours, per image; at least 3
  integrated-gradients  50 steps on one chunk, over as many bare passes of as many rows; at most 1.1
With --more the other methods by gradients on one chunk, over as many bare passes. Needs ROBENCH_MODELS and ROBENCH_DATA.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from captum.attr import Saliency
from numpy.typing import NDArray
from torch import Tensor, nn

from robench.core.draws import Draws
from robench.core.memory import keep_freed_memory
from robench.core.model_calls import freeze_model
from robench.core.types import ExplainedImages
from robench.data import load_images
from robench.explainers import EXPLAINERS
from robench.models import load_with_origin
from robench.scores.inequality import gini

MORE = {"input-x-gradient": 1, "smoothgrad": 25, "smoothgrad-sq": 25, "vargrad": 25, "gradient-shap": 25}  # passes of each
STEPS = 50


def bare(model: nn.Module, x: Tensor, y: Tensor, chunk: int) -> Tensor:
    """The gradients of the logits of y, with nothing around them."""
    grads = []
    for images, target in zip(x.split(chunk), y.split(chunk), strict=True):
        leaf = images.detach().requires_grad_()
        grads += torch.autograd.grad(model(leaf).gather(1, target[:, None]).sum(), leaf)
    return torch.cat(grads)


def repeated(passes: int, model: nn.Module, x: Tensor, y: Tensor) -> None:
    """So many bare passes of all images at once."""
    for _ in range(passes):
        bare(model, x, y, len(x))


def ours(model: nn.Module, x: Tensor, y: Tensor, chunk: int) -> Tensor:
    """The Gini of the maps, chunk by chunk as in the audit."""
    explain, draws, values = EXPLAINERS["saliency"], Draws(0, torch.arange(len(x)), "benchmark"), []
    for rows in torch.arange(len(x)).split(chunk):
        maps = explain(model, x[rows], y[rows], draws.take(rows))
        some = ExplainedImages(model, x[rows], y[rows], y[rows], torch.zeros(0), maps, maps.abs(), explain, draws)
        values.append(gini(some))
    return torch.cat(values)


def single(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """The Gini of Captum's maps, image by image."""
    method, values = Saliency(model), []
    for image, target in zip(x, y.tolist(), strict=True):
        maps = method.attribute(image[None].clone().requires_grad_(), target=target, abs=True)
        values.append(gini_of(maps[0].numpy().ravel()))
    return torch.tensor(values, dtype=torch.float64)


def gini_of(sizes: NDArray[np.float32]) -> float:
    """The Gini index of the sizes of one image."""
    ordered, n = np.sort(sizes).astype(np.float64), sizes.size
    return float((2 * np.arange(1, n + 1) - n - 1) @ ordered / (n * ordered.sum()))


def seconds_of(tasks: dict[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each task in each round, one task after the other, every other round from the last to the first."""
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    for count in range(rounds):
        for name in sorted(tasks, key=list(tasks).index, reverse=count % 2 == 1):
            begin = time.perf_counter()
            tasks[name]()
            seconds[name].append(time.perf_counter() - begin)
    return seconds


def told(name: str, seconds: list[float], base: list[float], meaning: str) -> None:
    """Prints the median seconds, and the median and the range of their ratio to the base, round by round."""
    ratios = [above / below for above, below in zip(seconds, base, strict=True)]
    spread = f"{statistics.median(ratios):6.3f} ({min(ratios):.3f} - {max(ratios):.3f})"
    print(f"{name:21} {statistics.median(seconds):8.3f} s  {spread}  {meaning}", flush=True)


def maps_and_gini(model: nn.Module, x: Tensor, y: Tensor, chunk: int, singles: int, rounds: int) -> None:
    """The first two parts."""
    few = min(singles, len(x))
    first = ours(model, x[:few], y[:few], chunk)
    assert torch.allclose(first, single(model, x[:few], y[:few]), atol=1e-3), "ours and Captum's disagree"  # a warm-up, too
    tasks: dict[str, Callable[[], object]] = {
        "bare": partial(bare, model, x, y, chunk),
        "ours": partial(ours, model, x, y, chunk),
        "single": partial(single, model, x[:few], y[:few]),
    }
    found = seconds_of(tasks, rounds)
    told("maps and Gini", found["ours"], found["bare"], "of the bare passes; target: at most 1.15")
    told("image by image", found["single"], [few / len(x) * seconds for seconds in found["ours"]], "times ours; target: at least 3")


def path(model: nn.Module, x: Tensor, y: Tensor, name: str, passes: int, rounds: int, target: str = "") -> None:
    """A method over as many bare passes of the same images."""
    draws = Draws(0, torch.arange(len(x)), "benchmark")
    tasks: dict[str, Callable[[], object]] = {
        "bare": partial(repeated, passes, model, x, y),
        "maps": partial(EXPLAINERS[name], model, x, y, draws),
    }
    found = seconds_of(tasks, rounds)
    told(name, found["maps"], found["bare"], f"of the bare passes{target}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model")
    parser.add_argument("--n", type=int, default=2000, help="images of the first part, half of them test and half training images")
    parser.add_argument("--chunk", type=int, default=250, help="images of a call")
    parser.add_argument("--singles", type=int, default=100, help="images of the second part")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--more", action="store_true")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    keep_freed_memory()
    model, x, y = given(args.model, args.n)
    part, label = x[: args.chunk], y[: args.chunk]
    print(f"{args.model}, n = {len(x)} in chunks of {args.chunk}, {args.threads} threads, median of {args.rounds} rounds (least - most)")
    with freeze_model(model):
        maps_and_gini(model, x, y, args.chunk, args.singles, args.rounds)
        path(model, part, label, "integrated-gradients", STEPS, args.rounds, "; target: at most 1.1")
        for name, passes in MORE.items() if args.more else ():
            path(model, part, label, name, passes, args.rounds)


def given(name: str, n: int) -> tuple[nn.Module, Tensor, Tensor]:
    """The model, and n images with their labels, half of them test and half training images."""
    data, zoo = Path(os.environ["ROBENCH_DATA"]), Path(os.environ["ROBENCH_MODELS"]) / "zoo.py"
    some = [load_images(f"npz:{data / 'cifar10-lossless.npz'}", split, data_dir=data, n=n // 2) for split in ("test", "train")]
    x, y = torch.cat([part.x for part in some]), torch.cat([part.y for part in some])
    return load_with_origin(f"{zoo}:{name}", classes=10, shape=some[0].shape).model, x.float() / 255 if x.dtype == torch.uint8 else x, y


if __name__ == "__main__":
    main()
