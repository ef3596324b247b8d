"""Presets: complete training settings under a name, small ones for two cores and one per published recipe that can be run here.

A preset holds the keyword arguments of `robench.training.train`; what the user gives on the command line comes on top.
`reg` and `objective` are recipe sentences. Published settings name their paper; the small ones are ours.
"""

from __future__ import annotations

from typing import Any

SMALL: dict[str, Any] = {
    "arch": "cnn",
    "activation": "gelu",
    "objective": None,
    "reg": (),
    "norm": "linf",
    "eps": 8 / 255,
    "epochs": 8,
    "batch_size": 100,
    "optimizer": "adamw",
    "lr": 4e-3,
    "momentum": 0.9,
    "weight_decay": 5e-4,
    "schedule": "one-cycle",
    "augment": "none",
    "ema": 0.0,
    "label_smoothing": 0.0,
    "normalize": "data",
    "held_out": 500,
    "probe_n": 200,
    "mixup": 0.0,
    "cutmix": 0.0,
    "awp": 0.0,
    "awp_warmup": 0.0,
    "precision": "fp32",
    "compiled": False,
    "guard": "stop",
}
RICE: dict[str, Any] = SMALL | {
    "arch": "preact-resnet18",
    "activation": "relu",
    "objective": "pgd-at,steps=10,step_size=2/255",
    "epochs": 200,
    "batch_size": 128,
    "optimizer": "sgd",
    "lr": 0.1,
    "schedule": "piecewise,first=0.5,second=0.75",
    "augment": "crop-flip",
    "held_out": 1000,
    "probe_n": 1000,
}
PRESETS: dict[str, dict[str, Any]] = {
    "small": SMALL,
    "cifar-small": SMALL | {"augment": "crop-flip", "epochs": 12, "eps": 2 / 255, "ema": 0.995},
    "mnist-small": SMALL | {"arch": "two-conv", "activation": "relu", "eps": 0.3, "epochs": 5, "lr": 2e-3, "normalize": "none"},
    "hoffman2019": SMALL
    | {
        "arch": "mlp",
        "activation": "relu",
        "reg": ("jacobian=0.1",),
        "eps": 0.1,
        "epochs": 5,
        "batch_size": 100,
        "optimizer": "sgd",
        "lr": 0.1,
        "weight_decay": 0.0,
        "schedule": "constant",
        "normalize": "none",
        "held_out": 1000,
    },
    "standard-cifar": RICE | {"arch": "resnet18", "objective": "standard"},
    "rice2020": RICE,
    "pang2021": RICE | {"epochs": 110, "schedule": f"piecewise,first={100 / 110:.6f},second={105 / 110:.6f}"},
    "pang2021-wa-ls": RICE
    | {"epochs": 110, "schedule": f"piecewise,first={100 / 110:.6f},second={105 / 110:.6f}", "ema": 0.9995, "label_smoothing": 0.4},
}
ABOUT = {
    "small": "a small CNN on 32 px images, minutes on two cores; the default",
    "cifar-small": "the same for CIFAR-10 at eps 2/255, with crops, flips and averaged weights",
    "mnist-small": "two strided convolutions on MNIST at eps 0.3, minutes on two cores; the default for 28 px grey images",
    "hoffman2019": "the MNIST example of Jacobian regularisation, an MLP for 5 epochs (Hoffman et al. 2019, 1908.02729)",
    "standard-cifar": "ResNet-18 on CIFAR without a defence, the schedule of rice2020",
    "rice2020": "PGD-AT of PreAct ResNet-18, 200 epochs (Rice et al. 2020, 2002.11569)",
    "pang2021": "PGD-AT of PreAct ResNet-18, 110 epochs (Pang et al. 2021, 2010.00467)",
    "pang2021-wa-ls": "pang2021 with averaged weights and label smoothing 0.4",
}


def default_preset(shape: tuple[int, int, int]) -> str:
    """The preset for images of a shape (C, H, W) when the user names none."""
    return "mnist-small" if shape == (1, 28, 28) else "small"
