"""The names of CIFAR-10-P and ImageNet-P (Hendrycks & Dietterich, ICLR 2019, 1903.12261): sequences of ever more perturbed frames.

Ten perturbations make the benchmark, four more are for validation. The authors' script for CIFAR (ImageNet-P/cifar-p-eval.py in
hendrycks/robustness) takes the mean over a list that has spatter in the place of snow, so that there are two lists of ten.
"""

from __future__ import annotations

TEN = (
    "gaussian_noise", "shot_noise", "motion_blur", "zoom_blur", "snow", "brightness", "translate", "rotate", "tilt", "scale",
)  # fmt: skip
PERTURBATIONS = (*TEN, "speckle_noise", "gaussian_blur", "spatter", "shear")
LISTS_OF_TEN = {"snow": TEN, "spatter": tuple("spatter" if name == "snow" else name for name in TEN)}  # word of the setting -> names
DIFFICULTIES = (1, 2, 3)
SequenceCell = tuple[str, int]  # a perturbation and its difficulty


def is_noise(perturbation: str) -> bool:
    """Whether the frames of a perturbation are independent draws, so that each is compared with the first and not with the one before.

    Args:
        perturbation: its name.
    """
    return "noise" in perturbation


def stem_of_cell(perturbation: str, difficulty: int) -> str:
    """How the array or the folder is called: noises of a higher difficulty have files of their own, others are stepped through faster.

    Args:
        perturbation: its name.
        difficulty: from 1 to 3.

    Example:
        >>> stem_of_cell("shot_noise", 2), stem_of_cell("tilt", 2)
        ('shot_noise_2', 'tilt')
    """
    return f"{perturbation}_{difficulty}" if difficulty > 1 and is_noise(perturbation) else perturbation
