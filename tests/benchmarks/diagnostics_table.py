"""What the diagnostics show on independently trained networks: the table of docs/diagnostics.md.

python tests/benchmarks/diagnostics_table.py

First 64 test images, seed 0. Needs ROBENCH_MODELS and ROBENCH_DATA.
"""

from __future__ import annotations

import os
from pathlib import Path

import torch

from robench.attacks.fgsm import fgsm
from robench.attacks.noise import noise
from robench.attacks.pgd import pgd
from robench.core.draws import Draws
from robench.core.model_calls import freeze_model
from robench.core.threat import Threat
from robench.data import load_images
from robench.models import load_model
from robench.runs.diagnostics import NOISE_TRIES, PGD_STEPS, model_checks

CASES = [
    ("resnet2b", "linf", 2 / 255), ("resnet4b", "linf", 2 / 255), ("cnn_a_mix", "linf", 2 / 255), ("resnet20_standard", "linf", 1 / 255),
    ("resnet20_standard", "linf", 8 / 255), ("resnet20_standard", "l2", 0.5), ("resnet56_standard", "linf", 2 / 255),
    ("wong2020_fgsm", "linf", 0.3), ("wong2020_fgsm", "l2", 2.0), ("atzmon2019", "linf", 0.3),
]  # fmt: skip


def main() -> None:
    data, zoo = Path(os.environ["ROBENCH_DATA"]), Path(os.environ["ROBENCH_MODELS"]) / "zoo.py"
    for name, norm, eps in CASES:
        source = "mnist" if name in ("wong2020_fgsm", "atzmon2019") else f"npz:{data / 'cifar10-lossless.npz'}"
        images = load_images(source, "test", data_dir=data, n=64)
        x, model, threat = images.pixels(slice(None)), load_model(f"{zoo}:{name}"), Threat(norm, eps)
        draws = Draws(0, images.ids, "diagnostics")
        with freeze_model(model):
            checks = model_checks(model, x, images.y, threat, draws)
            with torch.no_grad():
                own = model(x).argmax(1)
            fallen = [
                noise(model, x, own, threat, draws.child("noise"), tries=NOISE_TRIES),
                fgsm(model, x, own, threat, draws),
                pgd(model, x, own, threat, draws, steps=PGD_STEPS, random_start=False),
            ]
        counts = ", ".join(str(int(found.fooled.sum())) for found in fallen)
        values = {check.name: check.value for check in checks}
        shown = "  ".join(f"{key} {values[key]:.4g}" for key in ("vanishing_ce", "saturated", "loss_stalls", "unbroken_at_eps_1"))
        print(f"{name:18} {norm:4} {eps:7.4f}  {counts:12}  {shown}  flags: {[c.name for c in checks if c.raised] or 'none'}", flush=True)


if __name__ == "__main__":
    main()
