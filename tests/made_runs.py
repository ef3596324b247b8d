"""Results folders made without a model, as robench writes them: for reports of many runs and of nights."""

import csv
import json
from dataclasses import astuple, fields
from hashlib import sha256

import numpy as np

from robench.core.rows import Row
from robench.core.statistics import wilson

EPS = 8 / 255
SAMPLE_HEAD = [
    "sample", "label", "clean_pred", "adv_pred", "broken_by", "eps", "step", "clean_margin", "adv_margin", "distance", "forwards",
    "backwards", "rounded_pred", "png",
]  # fmt: skip


def share_row(name, n, probe, count, norm="", data="shapes", metric="accuracy", setting=""):
    """A row of a share with its interval."""
    return Row(name, "", data, "test", n, 0, norm, EPS if norm else 0.0, probe, setting, metric, count / n, *wilson(count, n), "wilson")


def make_run(
    folder,
    *,
    name="net.pt",
    n=100,
    finished="2026-11-01T03:00:00Z",
    clean=0.9,
    robust=0.6,
    seed=0,
    versions=None,
    flags=(),
    more=(),
    data="shapes",
    images="",
):
    """A finished run of the suite smoke: images are right, and stand, as drawn with the seed; returns the folder."""
    draws = np.random.default_rng(seed)
    labels = np.arange(n) % 10
    rank = draws.permutation(n)
    right, stands = rank < round(clean * n), rank < round(robust * n)
    rows = [
        share_row(name, n, "clean", right.sum(), data=data), share_row(name, n, "pgd-10", stands.sum(), "linf", data),
        share_row(name, n, "smoke", stands.sum(), "linf", data), *more,
    ]  # fmt: skip
    lines = [
        [k, labels[k], labels[k] if right[k] else (labels[k] + 1) % 10, labels[k] if stands[k] else (labels[k] + 1) % 10,
         "" if stands[k] else "pgd-10" if right[k] else "clean", EPS if right[k] and not stands[k] else "", 1, 1.0, "", "", 5, 4, -1, ""]
        for k in range(n)
    ]  # fmt: skip
    images = images or sha256(f"{data} {n}".encode()).hexdigest()
    about = {"name": data, "split": "test", "n": n, "sha256": images}
    checkpoint = {"name": name, "sha256": sha256(f"{name} {seed}".encode()).hexdigest(), "preset": ""}
    manifest = {
        "command": f"robench eval {name} --suite smoke", "finished": finished, "seconds": 1.5, "seed": 0, "device": "cpu", "threads": 1,
        "versions": {"robench": "0.1.0", "torch": "2.14.1"} | (versions or {}), "checkpoint": checkpoint, "data": about,
        "threat": {"norm": "linf", "eps": EPS}, "notes": [], "flags": list(flags), "format": 2,
        "words": {"command": "eval", "checkpoint": checkpoint, "data": about, "seed": 0, "suite": "smoke", "norm": "linf", "eps": [EPS]},
        "files": ["rows.csv", "samples.csv", "manifest.json"],
    }  # fmt: skip
    folder.mkdir(parents=True)
    write_table(folder / "rows.csv", [field.name for field in fields(Row)], [[blank(cell) for cell in astuple(row)] for row in rows])
    write_table(folder / "samples.csv", SAMPLE_HEAD, lines)
    (folder / "manifest.json").write_text(json.dumps(manifest) + "\n")
    return folder


def blank(cell):
    """A cell as it is written: nan as nothing."""
    return "" if cell != cell else cell  # noqa: PLR0124


def write_table(path, head, lines):
    """A CSV with its head."""
    with path.open("w", newline="") as file:
        csv.writer(file, lineterminator="\n").writerows([head, *lines])


def make_nights(folder, count, *, name="net.pt", **how):
    """So many nights of one model, a month apart from the first at most; returns the folders."""
    return [
        make_run(folder / f"night-{k:03}", name=name, finished=f"2026-{1 + k // 28:02}-{1 + k % 28:02}T03:00:00Z", seed=k, **how)
        for k in range(count)
    ]
