"""What the pictures of a run show: their headings and captions, by the first word of their names."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from robench.core.rows import CLEAN, OVERALL_PROBE, Row
from robench.report.tables import setting_words

CAPTIONS = {
    "accuracy": "Accuracy that is left after each probe, from left to right, with 95 % intervals; an attack is given what still stands.",
    "curve": "Accuracy that is left at each radius after the last attack there, with its 95 % interval; 0 is the image as it is.",
    "examples": "The first images that fell: as they were, as they were changed, and the change, amplified to the full range.",
    "confusion": "Who is taken for whom. A row is a class: how many of its images get which label; blue where that is right. Of many "
    "classes only the most frequent confusions are drawn.",
    "lorenz": "Lorenz curves, the mean over images: what share of the map the smallest so many subpixels carry.",
    "gini": "The Gini index of each image's map; upright lines are means.",
    "margin": "Each image's Gini beside its margin (true logit less the largest other one), of those that are right when clean.",
    "gallery": "Each map has its own scale: the strength of two maps cannot be compared by eye.",
    "noise": "Error rate over the share of subpixels that are disturbed, on the images that a model gets right; all probes on one axis; "
    "bands show the draws.",
    "occlusion": "Error rate under boxes, on the images that a model gets right.",
    "heat": "Accuracy in each cell, in percent.",
    "severities": "Mean accuracy of each family of corruptions over the severity, {measured}; 0 is the image as it is.",
    "sheet": "One image under everything.",
    "flips": "How often the label changes along the sequences of each perturbation, with 95 % intervals; a sequence is the unit.",
}
HEADINGS = {
    "accuracy": "Accuracy after attacks",
    "curve": "Accuracy over the radius",
    "examples": "Adversarial images",
    "confusion": "Confusion of classes",
    "lorenz": "Lorenz curves",
    "gini": "Gini over the images",
    "margin": "Gini and margin",
    "gallery": "Gallery",
    "noise": "Noise on few subpixels",
    "occlusion": "Occlusion",
    "heat": "Corruption by severity",
    "severities": "Families",
    "sheet": "Contact sheet",
    "flips": "Flips along sequences",
}


def measured_severities(rows: Sequence[Row]) -> list[int]:
    """The severities that were measured."""
    severities = [setting_words(row).get("severity", "") for row in rows if row.probe not in (CLEAN, OVERALL_PROBE)]
    return sorted({int(severity) for severity in severities if severity.isdigit()})


def captioned_groups(paths: Sequence[Path], severities: Sequence[int]) -> list[tuple[str, str, list[Path]]]:
    """The pictures in groups of one kind, in the order of CAPTIONS, each with its heading and caption."""
    groups: list[tuple[str, str, list[Path]]] = []
    for kind, caption in CAPTIONS.items():
        mine = [path for path in paths if path.suffix == ".png" and path.stem.partition("-")[0] == kind]
        if mine:
            groups.append((HEADINGS[kind], caption.replace("{measured}", f"measured at {numbers_in_words(severities)}"), mine))
    return groups


def numbers_in_words(numbers: Sequence[Any]) -> str:
    """Numbers in a sentence: 1, 2 and 3."""
    *first, last = map(str, numbers or (0,))
    return f"{', '.join(first)} and {last}" if first else last
