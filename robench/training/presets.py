"""Presets: complete training settings under a name, small ones for two cores and one per published recipe that can be run here.

A preset holds keyword arguments of `robench.train`, a value for every key of SMALL_SETTINGS; what the user gives comes on top. `reg` and
`objective` are recipe sentences. Published settings are those of a paper or its code, which `preset_sources` names with what differs; the
small ones are ours. A new preset is a line in DESCRIBED_PRESETS.
"""

from __future__ import annotations

from typing import Any

SMALL_SETTINGS: dict[str, Any] = {
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
    "nesterov": True,
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
    "freeze": (),
    "accumulate": 1,
    "swa": 0.0,
    "extra": "",
}
RICE: dict[str, Any] = SMALL_SETTINGS | {
    "arch": "preact-resnet18",
    "activation": "relu",
    "objective": "pgd-at,steps=10,step_size=2/255",
    "epochs": 200,
    "batch_size": 128,
    "optimizer": "sgd",
    "nesterov": False,
    "lr": 0.1,
    "schedule": "piecewise,first=0.5,second=0.75",
    "augment": "crop-flip",
    "held_out": 1000,
    "probe_n": 1000,
}


def milestone_schedule(epochs: int, *at: int) -> str:
    """The sentence of the schedule whose rate falls to a tenth at the start of some epochs.

    Args:
        epochs: length of the training.
        at: the epochs at whose start the rate falls, counted from 0.

    Example:
        >>> milestone_schedule(110, 100, 105)
        'milestones,at=100/110:105/110'
    """
    return f"milestones,at={':'.join(f'{epoch}/{epochs}' for epoch in at)}"


MNIST_SMALL: dict[str, Any] = SMALL_SETTINGS | {
    "arch": "two-conv",
    "activation": "relu",
    "eps": 0.3,
    "epochs": 5,
    "lr": 2e-3,
    "normalize": "none",
}
PANG: dict[str, Any] = RICE | {"epochs": 110, "schedule": milestone_schedule(110, 100, 105)}
SINGLE_STEP_SETTINGS: dict[str, Any] = RICE | {"epochs": 30, "lr": 0.2, "schedule": "cyclic"}
WANG: dict[str, Any] = RICE | {  # of MART's code, on which MAIL's builds
    "arch": "resnet18",
    "eps": 0.031,
    "lr": 0.01,
    "epochs": 120,
    "weight_decay": 3.5e-3,
    "normalize": "none",
}
IGD: dict[str, Any] = RICE | {"arch": "resnet18", "epochs": 150, "schedule": "plateau,patience=10,threshold=0.01", "normalize": "none"}
EMR: dict[str, Any] = RICE | {
    "arch": "wrn-34-10",
    "objective": "pgd-at,steps=10,step_size=0.00784",
    "eps": 0.0314,
    "epochs": 100,
    "schedule": milestone_schedule(100, 60, 90),
    "normalize": "none",
    "held_out": 2000,
}
ARR: dict[str, Any] = RICE | {
    "arch": "resnet18",
    "objective": "standard",
    "reg": ("arr,steps=1",),
    "schedule": milestone_schedule(200, 100, 150),
}
EMR_WEIGHT = 3 / 128  # the code's 3 belongs to the squared norm of the gradient of a mean over 128 images
# The example differentiates by pixels that are normalised by 0.3081, and we by those in [0, 1], where the Jacobian is 1 / 0.3081 as long.
HOFFMAN_WEIGHT = 0.1 * 0.3081**2

FINE_TUNING = "fine-tune"  # the preset of trainings that begin with weights

DESCRIBED_PRESETS: dict[str, tuple[str, dict[str, Any]]] = {  # what it is, and its settings
    "small": ("a small CNN on 32 px images, minutes on two cores; the default", SMALL_SETTINGS),
    FINE_TUNING: (
        "PGD-AT from the weights of --init at a low rate, for which it is the default; the settings are ours",
        SMALL_SETTINGS
        | {
            "activation": "relu",
            "objective": "pgd-at",
            "epochs": 5,
            "batch_size": 128,
            "optimizer": "sgd",
            "lr": 0.01,
            "schedule": "one-cycle",
            "normalize": "none",
        },
    ),
    "cifar-small": (
        "the same for CIFAR-10 at eps 2/255, with crops, flips and averaged weights",
        SMALL_SETTINGS | {"augment": "crop-flip", "epochs": 12, "eps": 2 / 255, "ema": 0.995},
    ),
    "cifar-two-conv": (
        "two strided convolutions for CIFAR-10 at eps 2/255, 10 epochs; the study of all objectives and regularisers (docs/results.md)",
        SMALL_SETTINGS | {"arch": "two-conv", "activation": "relu", "augment": "flip", "epochs": 10, "eps": 2 / 255},
    ),
    "mnist-small": ("two strided convolutions on MNIST at eps 0.3, minutes on two cores; the default for 28 px grey images", MNIST_SMALL),
    "mnist-l2": ("PGD-AT of the same against l2 at eps 2", MNIST_SMALL | {"norm": "l2", "eps": 2.0, "objective": "pgd-at"}),
    "hoffman2019": (
        "the MNIST example of Jacobian regularisation, an MLP for 5 epochs (Hoffman et al. 2019, 1908.02729)",
        SMALL_SETTINGS
        | {
            "arch": "mlp",
            "activation": "relu",
            "objective": "standard",
            "reg": (f"jacobian={HOFFMAN_WEIGHT:.6f}",),
            "eps": 0.1,
            "epochs": 5,
            "batch_size": 64,
            "optimizer": "sgd",
            "nesterov": False,
            "lr": 0.01,
            "schedule": "constant",
            "normalize": "given,mean=0.1307,std=0.3081",
            "held_out": 1000,
        },
    ),
    "emr-mlp": (
        "EMR of an MLP in standard training, MNIST; width, depth and schedule are ours (Liu & Chan 2022, 2210.05118)",
        SMALL_SETTINGS
        | {
            "arch": "mlp,width=512,depth=3",
            "activation": "relu",
            "objective": "standard",
            "reg": (f"emr={EMR_WEIGHT:.6f},temperature=1",),
            "eps": 0.1,
            "epochs": 20,
            "batch_size": 128,
            "optimizer": "sgd",
            "lr": 0.05,
            "schedule": milestone_schedule(20, 15, 18),
            "normalize": "none",
            "held_out": 1000,
        },
    ),
    "standard-cifar": (
        "ResNet-18 on CIFAR without a defence, the schedule of rice2020",
        RICE | {"arch": "resnet18", "objective": "standard"},
    ),
    "sagr-cifar": (
        "SAGR, our reconstruction, of ResNet-18 with SiLU; the schedule of rice2020 (after Li et al. 2023; all settings ours)",
        RICE | {"arch": "resnet18", "activation": "silu", "objective": "standard", "reg": ("sagr=0.1,rho=0.1",)},
    ),
    "igd-cifar10": (
        "IGD with weight 1 on PGD-AT, ResNet-18, 150 epochs, rate by plateau (Chen et al. 2023, 2305.09305)",
        IGD | {"reg": ("igd=1",)},
    ),
    "igd-cifar100": ("the same with weight 2", IGD | {"reg": ("igd=2",)}),
    "igd-tinyimagenet": ("the same with weight 3, for images of 64 px", IGD | {"reg": ("igd=3",)}),
    "igd-imagenet100": (
        "the same with weight 4, torchvision's ResNet-18 for images of 224 px",
        IGD | {"arch": "tv/resnet18", "reg": ("igd=4",)},
    ),
    "emr-at": (
        "EMR on PGD-AT of WRN-34-10 (Liu & Chan 2022, 2210.05118)",
        EMR | {"reg": (f"emr={EMR_WEIGHT:.6f},temperature=40,drops=59/100:89/100",)},
    ),
    "emr-trades": (
        "EMR on TRADES with beta 12, 130 epochs",
        EMR
        | {
            "objective": "trades,beta=12,adversary=ce,step_size=0.00784",
            "weight_decay": 1e-3,
            "epochs": 130,
            "schedule": milestone_schedule(130, 60, 120),
            "reg": (f"emr={1 / 128:.6f},temperature=1,drops=59/130:119/130",),
        },
    ),
    "emr-mail": (
        "EMR on MAIL-AT, weights from epoch 75",
        EMR
        | {
            "objective": "mail-at,slope=30,bias=-0.07,begin=74/100,step_size=0.00784",
            "weight_decay": 2e-4,
            "schedule": milestone_schedule(100, 75, 90),
            "held_out": 1000,
            "reg": (f"emr={1 / 128:.6f},temperature=0.1,drops=74/100:89/100",),
        },
    ),
    "emr-mart": (
        "EMR on MART, with the weight, temperature and schedule of emr-at (ours)",
        EMR | {"objective": "mart,step_size=0.00784", "reg": (f"emr={EMR_WEIGHT:.6f},temperature=40,drops=59/100:89/100",)},
    ),
    "arr-cifar10": ("ARR of ResNet-18, one FGSM step, rate 0.1, a tenth from epochs 100 and 150 of 200; the weight is ours", ARR),
    "arr-cifar100": ("the same, for CIFAR-100", ARR),
    "rice2020": ("PGD-AT of PreAct ResNet-18, 200 epochs (Rice et al. 2020, 2002.11569)", RICE),
    "pang2021": ("PGD-AT of PreAct ResNet-18, 110 epochs (Pang et al. 2021, 2010.00467)", PANG),
    "pang2021-wa-ls": (
        "pang2021 with averaged weights and label smoothing 0.4; these two are ours",
        PANG | {"ema": 0.9995, "label_smoothing": 0.4},
    ),
    "trades2019": (
        "TRADES with beta 6 of WRN-34-10, 76 epochs (Zhang et al. 2019, 1901.08573)",
        RICE
        | {
            "arch": "wrn-34-10",
            "objective": "trades,beta=6,step_size=0.007",
            "eps": 0.031,
            "epochs": 76,
            "weight_decay": 2e-4,
            "schedule": milestone_schedule(76, 74),  # in epoch 75 of those that count from 1
            "normalize": "none",
        },
    ),
    "trades-pang": ("TRADES of PreAct ResNet-18 by the schedule of pang2021", PANG | {"objective": "trades"}),
    "mart2020": (
        "MART with beta 5 of ResNet-18, 120 epochs from rate 0.01 (Wang et al. 2020, OpenReview rklOg6EFwS)",
        WANG | {"objective": "mart,beta=5,step_size=0.007", "schedule": milestone_schedule(120, 74, 89, 99)},
    ),
    "mail2021-at": (
        "MAIL on PGD-AT of ResNet-18, weights from epoch 75 of 120 (Wang et al. 2021, 2106.07904)",
        WANG | {"objective": "mail-at,slope=1,bias=-1.5,begin=75/120,step_size=0.007", "schedule": milestone_schedule(120, 75, 90, 100)},
    ),
    "mail2021-trades": (
        "MAIL on TRADES of ResNet-18, weights from epoch 75 of 120",
        WANG
        | {
            "objective": "mail-trades,beta=5,slope=1,bias=-1.5,begin=75/120,step_size=0.007",
            "schedule": milestone_schedule(120, 75, 90, 100),
        },
    ),
    "awp2020": ("rice2020 with weights perturbed by 0.01 (Wu et al. 2020, 2004.05884)", RICE | {"awp": 0.01}),
    "awp2020-trades": (
        "TRADES of WRN-34-10 with weights perturbed by 0.005 from epoch 10 on, 200 epochs",
        RICE
        | {
            "arch": "wrn-34-10",
            "objective": "trades,beta=6,step_size=2/255",
            "awp": 0.005,
            "awp_warmup": 9 / 200,
            "schedule": milestone_schedule(200, 99, 149),
            "normalize": "none",
        },
    ),
    "hat2022": (
        "HAT of ResNet-18, 50 epochs of one cycle to rate 0.21 (Rade & Moosavi-Dezfooli 2022)",
        RICE
        | {
            "arch": "resnet18",
            "objective": "hat,beta=2.5,gamma=0.5,h=2,step_size=2/255",
            "epochs": 50,
            "schedule": "one-cycle",
            "lr": 0.21,
            "nesterov": True,
            "normalize": "none",
        },
    ),
    "wong2020": (
        "FGSM from a random start, 15 epochs (Wong et al. 2020, 2001.03994)",
        SINGLE_STEP_SETTINGS | {"objective": "fgsm-rs", "epochs": 15},
    ),
    "wong2020-free": (
        "Free-AT in the schedule that Wong et al. 2020 give it, 11 epochs of 8 replays",
        SINGLE_STEP_SETTINGS | {"objective": "free-at,replays=8", "epochs": 11, "lr": 0.04},
    ),
    "n-fgsm2022": ("N-FGSM, 30 epochs (de Jorge et al. 2022, 2202.01181)", SINGLE_STEP_SETTINGS | {"objective": "n-fgsm"}),
    "gradalign2020": (
        "FGSM with GradAlign 0.2, 30 epochs (Andriushchenko & Flammarion 2020, 2007.02617)",
        SINGLE_STEP_SETTINGS
        | {"objective": "fgsm-at", "reg": ("gradalign=0.2,constant=true",), "lr": 0.3, "schedule": "cyclic,peak=0.4", "normalize": "none"},
    ),
    "free2019": (
        "Free-AT of WRN-34-10, 26 epochs of 8 replays (Shafahi et al. 2019, 1904.12843)",
        RICE | {"arch": "wrn-34-10", "objective": "free-at,replays=8", "epochs": 26, "weight_decay": 2e-4},
    ),
}
PRESETS = {name: settings for name, (_, settings) in DESCRIBED_PRESETS.items()}
PRESET_DESCRIPTIONS = {name: text for name, (text, _) in DESCRIBED_PRESETS.items()}


def default_preset(shape: tuple[int, int, int]) -> str:
    """The key of PRESETS that is taken when the user names none.

    Args:
        shape: (C, H, W) of the images.
    """
    return "mnist-small" if shape == (1, 28, 28) else "small"
