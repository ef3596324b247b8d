"""What the recipes of the suite `fast`, or others, leave more than `autoattack` does, and how long they take, in l2 and l1.

python tests/benchmarks/fast_vs_autoattack.py --norms l2 l1 --state STATE
python tests/benchmarks/fast_vs_autoattack.py --norms l2 --recipes "apgd,loss=dlr,steps=50;square,queries=2500" --state STATE

First --n test images, seed 0, one thread unless told otherwise; three radii a norm and model. The state of each run is kept in the
folder STATE, so that a killed benchmark goes on where it was. Needs ROBENCH_MODELS and ROBENCH_DATA.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import torch

from robench import evaluate
from robench.core.recipes import Recipe, parse_recipe
from robench.data import load_images
from robench.evaluation.suites import SUITES
from robench.models import load_with_origin
from robench.results.measurement import Measurement

RADII = {
    ("resnet2b", "l2"): (0.25, 0.5, 1.0),
    ("cnn_a_mix", "l2"): (0.25, 0.5, 1.0),
    ("wong2020_fgsm", "l2"): (1.0, 1.5, 2.0),
    ("resnet2b", "l1"): (3.0, 6.0, 12.0),
    ("cnn_a_mix", "l1"): (3.0, 6.0, 12.0),
    ("wong2020_fgsm", "l1"): (3.0, 6.0, 10.0),
}
MODELS = ("resnet2b", "wong2020_fgsm", "cnn_a_mix")


def images_of(model: str, n: int) -> Any:
    """The first n test images of the model's data set."""
    data = Path(os.environ["ROBENCH_DATA"])
    name = "mnist" if model == "wong2020_fgsm" else f"npz:{data / 'cifar10-lossless.npz'}"
    return load_images(name, "test", data_dir=data, n=n)


def measured(model: str, norm: str, eps: float, suite: str | list[Recipe], n: int, state: Path) -> list[tuple[str, float, float]]:
    """The accuracy that is left after each probe, and its seconds: from the state where it was measured before."""
    words = suite if isinstance(suite, str) else ";".join(f"{recipe.name},{recipe.options}" for recipe in suite)
    place = state / f"{model}-{norm}-{eps:g}-{n}-{hashlib.sha256(words.encode()).hexdigest()[:10]}"
    if (place / "found.json").exists():
        return [tuple(line) for line in json.loads((place / "found.json").read_text())]
    place.mkdir(parents=True, exist_ok=True)
    images = images_of(model, n)
    net = load_with_origin(f"{Path(os.environ['ROBENCH_MODELS']) / 'zoo.py'}:{model}", classes=10, shape=images.shape).model
    found = evaluate(
        net,
        images.x,
        images.y,
        suite=suite,
        norm=norm,
        eps=eps,
        ids=images.ids,
        folder=place,
        resume=any(place.glob("state-*")),
        prepare=True,
    )
    lines = stages_of(found)
    (place / "found.json").write_text(json.dumps(lines))
    return lines


def stages_of(found: Measurement) -> list[tuple[str, float, float]]:
    """Probe, accuracy left, seconds, in the order in which they ran."""
    seconds = {row.probe: row.value for row in found.rows if row.metric == "seconds"}
    return [(row.probe, row.value, seconds[row.probe]) for row in found.rows if row.metric == "accuracy"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--norms", nargs="+", default=["l2", "l1"])
    parser.add_argument("--n", type=int, default=200)
    parser.add_argument("--recipes", help="in place of those of the suite `fast`: parted by ;")
    parser.add_argument("--reference", default="autoattack", help="what it is held against")
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    quick = [parse_recipe(sentence) for sentence in (args.recipes.split(";") if args.recipes else SUITES["fast"])]
    print("| model | norm | eps | autoattack left (seconds) | quick left (seconds) | more by | after each |\n|---|---|---|---|---|---|---|")
    for norm in args.norms:
        for model in args.models:
            for eps in RADII[model, norm]:
                full = measured(model, norm, eps, args.reference, args.n, args.state)
                few = measured(model, norm, eps, quick, args.n, args.state)
                left, taken = few[-1][1], sum(seconds for _, _, seconds in few)
                each = ", ".join(f"{probe.split(',')[0]} {100 * value:.1f}" for probe, value, _ in few)
                more = 100 * (left - full[-1][1])
                print(
                    f"| `{model}` | {norm} | {eps:g} | {100 * full[-1][1]:.1f} ({full[-1][2]:.0f}) | {100 * left:.1f} ({taken:.0f}) "
                    f"| {more:+.1f} | {each} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
