"""What networks of several training methods have learned: their penultimate features, compared, probed and measured.

    python tests/benchmarks/feature_study.py standard-s0.pt arr-s0.pt pgd-at-s0.pt --data npz:$ROBENCH_DATA/cifar10-lossless.npz --eps 2/255

The features of an image are what goes into the network's last linear layer. The first table has a line a network: the accuracy of the
network as it is, then of its probe, the same network with the last layer replaced by a ridge regression of the one-hot labels on its
features. The probe is fitted on the training images, its strength is chosen on those that were held out in the network's own training, and
both are measured on test images: clean, after PGD-20 against the network so put together, and under Gaussian, shot and impulse noise of
severity 3 (mean of the three). Then measures of the features of the clean test images: how many axes they use, and how far the classes lie
apart. The second table is the linear CKA of every two networks on the clean test images. Features that have nothing to do with each other
do not reach 0 on N images, but about their participation ratio over N: so the last line has the CKA with the first network, its images
permuted.

CKA: Kornblith et al. 2019 (1905.00414). Participation ratio: Gao et al. 2017 (10.1101/214262). Class separation: Kornblith et al. 2021
(2010.16402). Between over within: the traces of Fisher 1936 (10.1111/j.1469-1809.1936.tb02137.x). A linear probe: Alain & Bengio 2016
(1610.01644).
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from robench import corrupt, evaluate
from robench.core.corruption_names import NOISES
from robench.core.errors import InputError
from robench.core.memory import keep_freed_memory
from robench.core.model_calls import freeze_model, padded_logits
from robench.core.recipes import Recipe, parse_fraction
from robench.data import Images, holdout, load_images
from robench.evaluation.corruption_sources import source_from_images
from robench.models import load_with_origin

STRENGTHS = tuple(10.0**power for power in range(-6, 2))  # of the ridge, in units of the mean variance of a feature
SEVERITY = 3
ROWS = 250  # images per model call


def last_layer(model: nn.Module) -> str:
    """The name of the last linear layer, in the order in which the network was put together; InputError where there is none."""
    names = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    if not names:
        raise InputError("the network has no linear layer: there are no penultimate features")
    return str(names[-1])


def penultimate(model: nn.Module, images: Images) -> Tensor:
    """What goes into the last linear layer, (N, d) float64 on the CPU."""
    found: list[Tensor] = []
    layer = model.get_submodule(last_layer(model))
    handle = layer.register_forward_pre_hook(lambda _, inputs: found.append(inputs[0].detach().double().cpu()))
    parts: list[Tensor] = []
    try:
        with freeze_model(model), torch.no_grad():
            for rows in torch.arange(len(images)).split(ROWS):
                found.clear()
                padded_logits(model, images.pixels(rows))
                parts.append(found[-1].flatten(1)[: len(rows)])
    finally:
        handle.remove()
    return torch.cat(parts)


def cka(one: Tensor, other: Tensor) -> float:
    """Linear CKA of features (N, d) and (N, e) of the same images, in [0, 1] (Kornblith et al. 2019); nan where one is constant.

    ||X^T Y||_F^2 / (||X^T X||_F ||Y^T Y||_F) of the centred features: rotations and scales do not change it.
    """
    x, y = one - one.mean(0), other - other.mean(0)
    return float((x.T @ y).square().sum() / ((x.T @ x).norm() * (y.T @ y).norm()))


def participation(features: Tensor) -> float:
    """(sum of the variances along the principal axes)^2 / (sum of their squares), in [1, d]: how many axes the features (N, d) use."""
    centred = features - features.mean(0)
    covariance = centred.T @ centred
    return float(covariance.trace() ** 2 / covariance.square().sum())


def by_class(features: Tensor, y: Tensor) -> list[Tensor]:
    """The features (N_k, d) of each class that occurs."""
    return [features[y == label] for label in y.unique()]


def class_separation(features: Tensor, y: Tensor) -> float:
    """R^2 of Kornblith et al. 2021 (2010.16402): 1 - mean cosine distance within a class / mean cosine distance over all pairs of classes.

    1 where each class has collapsed to one direction of its own, 0 where classes make no difference. All classes weigh the same. The mean
    cosine of all pairs of two classes, an image with itself included, is the inner product of the means of their directions.
    """
    means = torch.stack([part.mean(0) for part in by_class(nn.functional.normalize(features, dim=1), y)])
    return float(1 - (1 - means.square().sum(1).mean()) / (1 - means.mean(0).square().sum()))


def between_over_within(features: Tensor, y: Tensor) -> float:
    """The variance of the class means over the mean variance inside a class, both summed over the features; images weigh the same."""
    total, within = (
        (features - features.mean(0)).square().sum(),
        sum((part - part.mean(0)).square().sum() for part in by_class(features, y)),
    )
    return float(total / within - 1)


def ridge(features: Tensor, y: Tensor, classes: int, strength: float) -> tuple[Tensor, Tensor]:
    """Weights (K, d) and biases (K,) that minimise mean ||W f + b - onehot(y)||^2 + strength * v ||W||^2; v is a feature's mean variance.

    The biases are not held down. Closed form.
    """
    mean, targets = features.mean(0), nn.functional.one_hot(y, classes).to(features)
    x = features - mean
    covariance = x.T @ x / len(x)
    covariance.diagonal().add_(strength * covariance.diagonal().mean().clamp_min(1e-30))
    weights = torch.linalg.solve(covariance, x.T @ (targets - targets.mean(0)) / len(x)).T
    return weights, targets.mean(0) - weights @ mean


def fitted(features: Tensor, y: Tensor, held_out: Tensor, labels: Tensor, classes: int) -> tuple[Tensor, Tensor, float]:
    """Weights, biases and strength of the ridge regression that is best on held-out features; of equals the strongest."""

    def accuracy(weights: Tensor, biases: Tensor) -> float:
        return float(((held_out @ weights.T + biases).argmax(1) == labels).double().mean())

    tried = [(*ridge(features, y, classes, strength), strength) for strength in STRENGTHS]
    return max(tried, key=lambda one: (accuracy(*one[:2]), one[2]))


def with_last_layer(model: nn.Module, weights: Tensor, biases: Tensor) -> nn.Module:
    """A copy of the network whose last linear layer has these weights (K, d) and biases (K,); in evaluation mode."""
    changed = copy.deepcopy(model).eval()
    name = last_layer(changed)
    old = changed.get_submodule(name)
    layer = nn.Linear(weights.shape[1], len(weights)).to(next(old.parameters()))
    with torch.no_grad():
        layer.weight.copy_(weights)
        layer.bias.copy_(biases)
    changed.set_submodule(name, layer)
    return changed


def probe_of(model: nn.Module, images: Images, kept: float, seed: int) -> nn.Module:
    """The network with a linear probe for its last layer, fitted on its training images; those it held out choose the strength."""
    training, held_out = holdout(images, kept, seed)
    weights, biases, _ = fitted(penultimate(model, training), training.y, penultimate(model, held_out), held_out.y, len(images.classes))
    return with_last_layer(model, weights, biases)


def accuracies(model: nn.Module, images: Images, attacked: int, norm: str, eps: float) -> list[float]:
    """Clean accuracy, accuracy after PGD-20 on the first images, and the mean accuracy under the three noises."""
    few = images.take(slice(0, attacked))
    clean = evaluate(model, images.x, images.y, suite=[], ids=images.ids).accuracy("clean")
    robust = evaluate(model, few.x, few.y, suite=[Recipe("pgd-20")], norm=norm, eps=eps, ids=few.ids).accuracy("pgd-20")
    source = source_from_images(images, NOISES, (SEVERITY,), scale="auto", photos="", seed=0, device="cpu")
    rows = corrupt(model, source).rows
    noisy = [row.value for row in rows if row.metric == "accuracy" and row.probe in NOISES and "severity=" in row.setting]
    return [clean, robust, sum(noisy) / len(NOISES)]


def table(head: Sequence[str], lines: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    return "\n".join(f"| {' | '.join(line)} |" for line in [head, ["---"] * len(head), *lines])


def network_line(
    name: str, model: nn.Module, probe: nn.Module, features: Tensor, test: Images, threat: tuple[int, str, float]
) -> list[str]:
    """The line of a network in the first table."""
    shares = [f"{100 * share:.1f}" for one in (model, probe) for share in accuracies(one, test, *threat)]
    measures = [participation(features), class_separation(features, test.y), between_over_within(features, test.y)]
    return [name, *shares, str(features.shape[1]), *(f"{measure:.3g}" for measure in measures)]


def cka_lines(names: Sequence[str], features: Sequence[Tensor]) -> list[list[str]]:
    """The CKA of every two networks, and of the first one, its images permuted, with every network."""
    order = torch.randperm(len(features[0]), generator=torch.Generator().manual_seed(0))
    lines = [[name, *(f"{cka(one, other):.3f}" for other in features)] for name, one in zip(names, features, strict=True)]
    return [*lines, [f"{names[0]}, permuted", *(f"{cka(features[0][order], other):.3f}" for other in features)]]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoints", nargs="+", type=Path)
    parser.add_argument("--data", required=True)
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--attacked", type=int, default=500, help="how many test images PGD-20 is run on")
    parser.add_argument("--norm", default="linf")
    parser.add_argument("--eps", type=parse_fraction, default=2 / 255)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    keep_freed_memory()
    training, test = (load_images(args.data, split, data_dir=args.data_dir) for split in ("train", "test"))
    names, features, lines = [], [], []
    for path in args.checkpoints:
        loaded = load_with_origin(path, shape=test.shape)
        recipe = loaded.meta.get("recipe", {})
        names.append(path.stem)
        features.append(penultimate(loaded.model, test))
        probe = probe_of(loaded.model, training, recipe.get("held_out", 500), recipe.get("seed", 0))
        lines.append(network_line(path.stem, loaded.model, probe, features[-1], test, (args.attacked, args.norm, args.eps)))
    what = [f"{word}, {head}" for head in ("own layer", "probe") for word in ("clean", "PGD-20", "noise")]
    print(table(["network", *what, "features", "participation ratio", "class separation", "between / within"], lines))
    print("\n" + table(["linear CKA", *names], cka_lines(names, features)))


if __name__ == "__main__":
    main()
