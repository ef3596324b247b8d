"""Every reader of files that others may have made: how a valid one is made, and the call that reads it as the command line does.

`make(folder)` writes valid files; `read(folder)` reads them. Files whose names are in `kept` are not changed.
"""

from __future__ import annotations

import io
import json
import tarfile
import tempfile
import warnings
from collections.abc import Callable
from contextlib import chdir, redirect_stdout
from dataclasses import dataclass
from functools import cache, partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from containers import class_label, png_bytes, sample_members, write_parquet, write_shard
from PIL import Image
from torch import nn

import robench
from robench.core.folders import claim_destination, finished_run_files
from robench.core.recipes import parse_recipe
from robench.core.saved_results import load_all_results
from robench.data import indices_in, load_images
from robench.data.corrupted_sets import read_corrupted_set
from robench.data.export import json_or_none
from robench.data.images import Images
from robench.evaluation.suites import expanded_recipes
from robench.models import build_network
from robench.models.checkpoint import describes_weights, read_checkpoint, save_checkpoint
from robench.models.loading import checkpoint_meta
from robench.report.tables import report_tables
from robench.results.files import read_rows
from robench.runs.stages.earlier_run import saved_array
from robench.training.checkpoint_files import logged_seconds
from robench.training.epochs import fit
from robench.training.settings import plan_of, resolved_settings
from robench.training.states import ResumableRun, resume_from_state, write_state
from robench.training.steps import begin_training
from robench.training.sweeps import refuse_other_sweep

SHAPE = (3, 8, 8)
CLASSES = 3
NAMES = ("cat", "dog", "eel")


@dataclass(frozen=True)
class Reader:
    """A kind of file.

    Attributes:
        make: writes valid files into an empty folder.
        read: reads them.
        kept: names of files that are not changed.
        refuses: whether valid ones are refused, too.
    """

    make: Callable[[Path], None]
    read: Callable[[Path], Any]
    kept: tuple[str, ...] = ()
    refuses: bool = False


@cache
def network() -> nn.Module:
    """A small network, always the same."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return build_network("mlp,width=4,depth=1", classes=CLASSES, shape=SHAPE)


def pixels(n: int = 10) -> np.ndarray[Any, Any]:
    """Images (N, 8, 8, 3) uint8."""
    return np.random.default_rng(0).integers(0, 256, (n, 8, 8, 3), np.uint8)


META = {
    "model": {
        "arch": "mlp,width=4,depth=1",
        "classes": CLASSES,
        "shape": list(SHAPE),
        "activation": "relu",
        "mean": None,
        "std": None,
        "options": {},
    },
    "data": {"name": "toy", "classes": list(NAMES)},
    "recipe": {"eps": 0.1, "norm": "linf"},
    "metrics": {},
    "history": [{"seconds": 1.0}],
}


# Models


def make_checkpoint(folder: Path) -> None:
    save_checkpoint(folder / "net.pt", network(), META)


def read_our_checkpoint(folder: Path) -> None:
    checkpoint_meta(folder / "net.pt")
    robench.load_model(folder / "net.pt", classes=CLASSES, shape=SHAPE)


def read_checkpoint_strictly(folder: Path) -> None:
    state, _ = read_checkpoint(folder / "net.pt")
    describes_weights(folder / "net.json", state)


def make_state_dict(folder: Path, zipped: bool) -> None:
    torch.save({"state_dict": network().state_dict()}, folder / "net.pt", _use_new_zipfile_serialization=zipped)


def make_safetensors(folder: Path) -> None:
    from safetensors.torch import save_file

    save_file(network().state_dict(), folder / "net.safetensors", {"format": "pt"})


def make_program(folder: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(network()).save(folder / "net.pt")


def read_weights(folder: Path, name: str = "net.pt") -> None:
    robench.load_model(folder / name, arch="mlp,width=4,depth=1", classes=CLASSES, shape=SHAPE)


# Images


def make_npz(folder: Path, pack: Callable[..., None]) -> None:
    pack(folder / "set.npz", x_test=pixels(), y_test=np.arange(10) % CLASSES, index=np.arange(10), classes=np.array(NAMES))


def read_images(folder: Path, words: str) -> None:
    images = load_images(words.format(folder), n=4 if words[0] == "n" else None)
    assert images.x.dtype in (torch.uint8, torch.float32)
    assert images.sha256


def make_parquet(folder: Path, **how: Any) -> None:
    """Two parts with two row groups each; the data card names the classes."""
    for k in range(2):
        rows = [png_bytes(image) for image in pixels()[5 * k : 5 * k + 5]]
        write_parquet(folder / f"test-{k:05d}-of-00002.parquet", rows, row_group_size=3, paths=[f"{k}.png"] * 5, **how)
    names = "".join(f"          '{k}': {name}\n" for k, name in enumerate(NAMES))
    head = "dataset_info:\n  features:\n  - name: label\n    dtype:\n      class_label:\n        names:\n"
    (folder / "README.md").write_text(f"---\n{head}{names}---\n")


def make_shards(folder: Path) -> None:
    """Two shards with labels as numbers and as JSON, one in the format of GNU."""
    for k, form in enumerate((tarfile.PAX_FORMAT, tarfile.GNU_FORMAT)):
        members = [(f"{'long/' * 30}{name}", content) for name, content in sample_members(pixels()[5 * k : 5 * k + 5])]
        write_shard(folder / f"{k}.tar", members, format=form)
    (folder / "classes.txt").write_text("\n".join(NAMES))


def make_json_shard(folder: Path) -> None:
    members = [
        (name.replace("cls", "json"), b'{"label": %s}' % content if name.endswith("cls") else content)
        for name, content in sample_members(pixels()[:5])
    ]
    write_shard(folder / "a.tar", members)


def make_arrays(folder: Path) -> None:
    for name in ("fog", "contrast"):
        np.save(folder / f"{name}.npy", pixels(20))
    np.save(folder / "labels.npy", np.tile(np.arange(4) % CLASSES, 5))
    (folder / "robench.json").write_text(
        json.dumps(
            {
                "name": "toy-c-synth",
                "split": "test",
                "seed": 0,
                "scale": "32",
                "images": "0" * 64,
                "channels": 3,
                "classes": NAMES,
                "ids": [3, 4, 5, 6],
            }
        )
    )


def read_corrupted(folder: Path) -> None:
    corrupted = read_corrupted_set(folder)
    corrupted.load(corrupted.corruptions[0], corrupted.severities[0], torch.arange(min(2, len(corrupted))))


def make_pictures(folder: Path) -> None:
    for label, kind in enumerate(NAMES):
        (folder / kind).mkdir()
        for k, end in enumerate(("png", "jpg", "bmp", "gif", "tif", "webp", "ppm")[label::3]):
            Image.fromarray(pixels()[3 * label + k % 3]).save(folder / kind / f"{k}.{end}")


def make_picture_tree(folder: Path) -> None:
    for kind in NAMES:
        (folder / "fog" / "1" / kind).mkdir(parents=True)
        for k in range(2):
            Image.fromarray(pixels()[k]).save(folder / "fog" / "1" / kind / f"{k}.{('png', 'jpg')[k]}")


def make_indices(folder: Path) -> None:
    (folder / "ids.txt").write_text("3\n14\n159\n")


# Recipes


def make_suite(folder: Path) -> None:
    (folder / "mine.txt").write_text("pgd,steps=3,restarts=2 # a comment\nfgsm\nsquare,queries=5\nfog\nsaliency\n")


def read_suite(folder: Path) -> None:
    robench.evaluate(network(), *attacked_images(), suite=[*expanded_recipes_of(folder)][:40], eps=0.1)


def expanded_recipes_of(folder: Path) -> list[Any]:
    """The recipes of a suite; it may name the user's functions, as a command line may, and these are left out here."""
    return [recipe for _, recipe in expanded_recipes([str(folder / "mine.txt")]) if ".py:" not in str(recipe)]


def read_recipes(folder: Path) -> None:
    for line in (folder / "mine.txt").read_text(errors="replace").splitlines():
        parse_recipe(line)


# Runs


@cache
def attacked_images() -> tuple[torch.Tensor, torch.Tensor]:
    """Images and labels that the network gets right, but for one."""
    x = torch.from_numpy(pixels().transpose(0, 3, 1, 2).copy()).float() / 255
    y = network()(x).argmax(1)
    y[0] = (y[0] + 1) % CLASSES
    return x, y


def measure(folder: Path, **options: Any) -> None:
    """A small measurement of every kind with a state."""
    suite = ["fgsm", "pgd,steps=2", "fog", "saliency", "random-noise"]
    robench.evaluate(network(), *attacked_images(), suite=suite, eps=0.05, folder=folder, resume=True, batch_size=4, **options)


def make_state(folder: Path) -> None:
    measure(folder)
    lines = (folder / "state-0.jsonl").read_bytes().splitlines(keepends=True)
    (folder / "state-0.jsonl").write_bytes(b"".join(lines[:-2]))


@cache
def results_of_a_run(seed: int) -> dict[str, bytes]:
    """The files of a finished run of the command line."""
    from typer.testing import CliRunner

    from robench.cli import app

    with tempfile.TemporaryDirectory() as place, chdir(place):
        make_checkpoint(Path())
        np.savez("set.npz", x_test=pixels(), y_test=attacked_images()[1].numpy(), classes=np.array(NAMES))
        words = ["eval", "net.pt", "--suite", "smoke", "--eps", "0.02", "--data", "npz:set.npz", "--out", "run", "--seed", str(seed)]
        outcome = CliRunner().invoke(app, words)
        assert outcome.exit_code == 0, outcome.output
        return {path.name: path.read_bytes() for path in Path("run").iterdir() if path.name in ("rows.csv", "samples.csv", "manifest.json")}


def make_results(folder: Path) -> None:
    for name, seed in (("base", 0), ("new", 1)):
        (folder / name).mkdir()
        for file, content in results_of_a_run(seed).items():
            (folder / name / file).write_bytes(content)


def read_comparison(folder: Path) -> None:
    robench.compare(folder / "base", folder / "new", ["smoke:drop>1%"])


def read_finished_run(folder: Path) -> None:
    rows = read_rows(folder / "base")
    with redirect_stdout(io.StringIO()):
        list(report_tables(rows, title="run", most=5))
    load_all_results(folder / "base")
    finished_run_files(folder / "base")
    words = json_or_none(folder / "base" / "manifest.json")
    words = words.get("words") if isinstance(words, dict) else None
    with claim_destination(
        folder / "base", words if isinstance(words, dict) and isinstance(words.get("command"), str) else {"command": "eval"}, resume=True
    ):
        pass


def make_exchange(folder: Path) -> None:
    (folder / ".replacing").mkdir()
    for name in ("rows.csv", "manifest.json"):
        (folder / name).write_bytes(results_of_a_run(0)[name])
        (folder / ".replacing" / name).write_bytes(results_of_a_run(1)[name])
    (folder / "old.csv").write_text("a\n")
    (folder / ".replacing" / ".whole").write_text(json.dumps({"new": ["manifest.json", "rows.csv"], "old": ["old.csv", "rows.csv"]}))


def read_exchange(folder: Path) -> None:
    with claim_destination(folder, {"command": "eval"}, force=True) as place, place.staged_results() as staging:
        (staging / "manifest.json").write_text("{}")


def make_saved_images(folder: Path) -> None:
    np.save(folder / "x_adv.npy", pixels().transpose(0, 3, 1, 2).astype(np.float32) / 255)


def make_sweep(folder: Path) -> None:
    (folder / "rows.csv").write_bytes(results_of_a_run(0)["rows.csv"])
    (folder / "sweep.json").write_text(json.dumps({"grid": {"lr": [0.1, 0.2]}, "suite": "smoke", "measure": "test"}))


def read_sweep(folder: Path) -> None:
    refuse_other_sweep(folder, {"grid": {"lr": [0.1, 0.2, 0.3]}, "suite": "smoke", "measure": "test"})
    read_rows(folder)


# Trainings


@cache
def training_plan() -> Any:
    settings, _ = resolved_settings("small", {"epochs": 2, "batch_size": 8, "probe_n": 4, "eps": 0.05, "ema": 0.9})
    return plan_of(settings, 5, None)


def training_images() -> Images:
    x = torch.from_numpy(pixels(16).transpose(0, 3, 1, 2).copy())
    return Images("toy", "train", x, torch.arange(16) % CLASSES, torch.arange(16), NAMES)


def resumable_run(folder: Path) -> ResumableRun:
    fresh = build_network("mlp,width=4,depth=1", classes=CLASSES, shape=SHAPE)
    return ResumableRun(
        folder / "net.pt", {"recipe": {"eps": 0.05, "epochs": 2}, "preset": "small"}, begin_training(fresh, training_plan())
    )


def make_training_state(folder: Path) -> None:
    run = resumable_run(folder)
    for _, _event in zip(range(4), fit(run.run, training_plan(), training_images(), training_images()), strict=False):
        pass
    write_state(run)


def read_training_state(folder: Path) -> None:
    run = resumable_run(folder)
    resume_from_state(run, resume=True)
    for _event in fit(run.run, training_plan(), training_images(), training_images()):
        pass


def make_log(folder: Path) -> None:
    (folder / "net.log.csv").write_text("epoch,seconds,loss\n1,0.5,2.0\n2,0.5,1.0\n")


PARQUET_READERS: dict[str, Reader] = {
    "parquet with numbers": Reader(partial(make_parquet, features=class_label()), partial(read_images, words="hf-data:{}")),
    "parquet with text": Reader(
        partial(make_parquet, label=[NAMES[k % 3] for k in range(5)], compression="zstd"), partial(read_images, words="hf-data:{}")
    ),
}
READERS: dict[str, Reader] = {
    **(PARQUET_READERS if find_spec("pyarrow") else {}),
    "checkpoint": Reader(make_checkpoint, read_our_checkpoint, ("net.json",)),
    "checkpoint and its json": Reader(make_checkpoint, read_checkpoint_strictly),
    "state_dict (zip)": Reader(partial(make_state_dict, zipped=True), read_weights),
    "state_dict (legacy)": Reader(partial(make_state_dict, zipped=False), read_weights),
    "safetensors": Reader(make_safetensors, partial(read_weights, name="net.safetensors")),
    "TorchScript without --trust": Reader(make_program, read_weights, refuses=True),
    "npz": Reader(partial(make_npz, pack=np.savez), partial(read_images, words="npz:{}/set.npz")),
    "npz, packed": Reader(partial(make_npz, pack=np.savez_compressed), partial(read_images, words="npz:{}/set.npz")),
    "shards of webdataset": Reader(make_shards, partial(read_images, words="wds:{}")),
    "shard with JSON": Reader(make_json_shard, partial(read_images, words="wds:{}/*.tar")),
    "npy and json of a corrupted set": Reader(make_arrays, read_corrupted),
    "images in folders": Reader(make_pictures, partial(read_images, words="folder:{}")),
    "images of a corrupted set": Reader(make_picture_tree, read_corrupted),
    "index file": Reader(make_indices, lambda folder: indices_in(folder / "ids.txt")),
    "suite": Reader(make_suite, read_suite),
    "recipes": Reader(make_suite, read_recipes),
    "state of a measurement": Reader(make_state, measure),
    "state of a training": Reader(make_training_state, read_training_state),
    "results of two runs": Reader(make_results, read_comparison),
    "results of a finished run": Reader(make_results, read_finished_run),
    "exchange that was broken off": Reader(make_exchange, read_exchange),
    "saved images": Reader(make_saved_images, lambda folder: saved_array(folder / "x_adv.npy", 10, SHAPE)),
    "sweep": Reader(make_sweep, read_sweep),
    "log of a training": Reader(make_log, lambda folder: logged_seconds(folder / "net.log.csv")),
}
