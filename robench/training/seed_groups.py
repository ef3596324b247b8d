"""One training over several seeds: a checkpoint for each, and mean, standard deviation and number of seeds of what they reach.

A seed whose training its guard ended, because the loss diverged or the network learnt to fool its own adversary, is named and left out of
the means: what is left of it is not a network of this recipe.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from robench.core.errors import DivergedError, InputError
from robench.core.files import json_value, refuse_link, write_whole
from robench.core.inputs import PathLike, as_path, as_seed
from robench.core.processes import current_world
from robench.core.seed_statistics import SeedMean, seed_mean
from robench.results.files import csv_bytes, frame_of_columns
from robench.training.train import train
from robench.training.types import Trained

GROUP_KIND = "trainings that differ in the seed"  # says in the JSON whose file it is
TrainSeed = Callable[[int, Path], Trained]


@dataclass(frozen=True)
class SeedTraining:
    """What became of one seed.

    Attributes:
        seed: of the training.
        path: its checkpoint, which is not there where no epoch could be used.
        meta: what the checkpoint says; {} where there is none.
        alarm: why its guard ended it; "" where it ran to its end.
        trained: whether it was trained by this call, and not by an earlier one.
    """

    seed: int
    path: Path
    meta: Mapping[str, Any]
    alarm: str = ""
    trained: bool = True

    @property
    def metrics(self) -> Mapping[str, Mapping[str, Any]]:
        """What was measured at the end, by probe, as a checkpoint has it."""
        found: Mapping[str, Mapping[str, Any]] = self.meta.get("metrics", {})
        return found


@dataclass(frozen=True)
class TrainedSeeds:
    """What `train_seeds` returns.

    Attributes:
        trainings: what became of each seed, in the order in which they were named.
        files: the CSV and the JSON that were written.
    """

    trainings: Sequence[SeedTraining]
    files: Sequence[Path] = ()

    @property
    def sound(self) -> list[SeedTraining]:
        """The seeds over which the means go."""
        return [one for one in self.trainings if not one.alarm]

    @property
    def left_out(self) -> dict[int, str]:
        """The seeds that the means leave out, with the alarm of each."""
        return {one.seed: one.alarm for one in self.trainings if one.alarm}

    @property
    def means(self) -> dict[str, SeedMean]:
        """Mean, standard deviation, interval and number of seeds of the accuracy under each probe that all these seeds have."""
        return {
            probe: seed_mean([one.metrics[probe]["accuracy"] for one in self.sound])
            for probe in (self.sound[0].metrics if self.sound else {})
            if all(probe in one.metrics for one in self.sound)
        }


def train_seeds(
    data: str = "shapes", *, seeds: Sequence[int], out: PathLike, resume: bool = False, force: bool = False, **arguments: Any
) -> TrainedSeeds:
    """Trains one network for each seed, and reports mean, standard deviation and number of seeds of every measured number.

    Args:
        data: the name of a data set, as `train` takes it.
        seeds: of the trainings, one or several, each from 0 to 2^32 - 1 and none twice.
        out: FILE.pt: the checkpoints are called FILE-seed0.pt, FILE-seed1.pt, ..., the tables FILE-seeds.csv and FILE-seeds.json.
        resume: show the seeds that are finished, go on with the one that is not, and train the others.
        force: replace finished trainings.
        arguments: all others of `train`, but for `seed`.

    Returns:
        A `TrainedSeeds`: `trainings`, `means` by probe over the seeds that ran to their end, and `left_out`.

    Raises:
        InputError: one sentence, for seeds that cannot be or are named twice, and for what `train` refuses.

    Example:
        >>> import tempfile
        >>> words = {"arch": "mlp,width=8", "n_train": 200, "held_out": 50, "epochs": 1, "eval_n": 12, "suite": ["fgsm"]}
        >>> done = robench.train_seeds("shapes", seeds=(0, 1), out=tempfile.mkdtemp() + "/s.pt", **words)
        >>> [one.path.name for one in done.trainings], done.means["fgsm"].count
        (['s-seed0.pt', 's-seed1.pt'], 2)
    """
    if "seed" in arguments:
        raise InputError("seeds and seed are two words for one thing: leave one of them out")
    file = as_path(out, "out")
    if file is None:
        raise InputError("seeds need out, FILE.pt, after which their checkpoints are called")
    return trained_seed_group(
        lambda seed, path: train(data, seed=seed, out=path, resume=resume, force=force, **arguments), seeds, file,
        resume=resume, force=force,
    )  # fmt: skip


def trained_seed_group(train_seed: TrainSeed, seeds: Sequence[int], out: Path, *, resume: bool, force: bool) -> TrainedSeeds:
    """Trains every seed with a function, and writes the tables; a seed that diverges is a result, and the others go on.

    Args:
        train_seed: train_seed(seed, FILE-seedN.pt) trains one.
        seeds: of the trainings.
        out: FILE.pt.
        resume: whether there may be finished trainings, which are shown.
        force: whether there may be finished trainings, which are replaced.

    Raises:
        InputError: for seeds and files that cannot be, before the first training.
    """
    chosen, tables = distinct_seeds(seeds), group_files(out)
    paths = {seed: seed_path(out, seed) for seed in chosen}
    refuse_occupied_group(paths.values(), tables, resume or force)
    group = TrainedSeeds([seed_outcome(train_seed, seed, path) for seed, path in paths.items()], tables)
    if current_world().rank == 0:
        write_whole(dict(zip(tables, (group_csv(group), group_json(group)), strict=True)))
    return group


def distinct_seeds(seeds: Sequence[int]) -> list[int]:
    """The seeds, each as a whole number; InputError for none, for one that cannot be, and for one that is named twice.

    Args:
        seeds: as a user gave them.
    """
    if isinstance(seeds, (str, bytes)) or not isinstance(seeds, Sequence):
        raise InputError(f"seeds are several whole numbers, such as (0, 1, 2), not {seeds!r}")
    numbers = [as_seed(seed) for seed in seeds]
    if not numbers:
        raise InputError("seeds name no seed: give one or several, such as 0,1,2")
    if twice := [number for place, number in enumerate(numbers) if number in numbers[:place]]:
        raise InputError(f"the seed {twice[0]} is named twice: a network that is counted twice makes the spread too small")
    return numbers


def seed_path(out: Path, seed: int) -> Path:
    """The checkpoint of one seed; InputError where FILE.pt is none.

    Args:
        out: FILE.pt.
        seed: of the training.
    """
    if out.suffix not in (".pt", ".pth") or out.stem.startswith("."):
        raise InputError(f"several seeds need --out FILE.pt, after which their checkpoints are called, not {out}")
    return out.with_name(f"{out.stem}-seed{seed}{out.suffix}")


def group_files(out: Path) -> list[Path]:
    """The CSV and the JSON of FILE.pt."""
    return [out.with_name(f"{out.stem}-seeds{end}") for end in (".csv", ".json")]


def refuse_occupied_group(paths: Any, tables: Sequence[Path], may_be_there: bool) -> None:
    """InputError where files of an earlier group are there unasked, or files of something else lie under the names of the tables."""
    there = [path for path in (*paths, *tables) if path.exists() or path.is_symlink()]
    if there and not may_be_there:
        raise InputError(f"{there[0]} is there: pass --resume to go on with these seeds, --force to replace them, or choose another --out")
    for path in tables:
        refuse_link(path)
    csv, plain = tables
    if (csv.exists() or plain.exists()) and not is_group_file(plain):
        raise InputError(f"{csv if csv.exists() else plain} was not written by such a training: move it, or choose another --out")


def is_group_file(path: Path) -> bool:
    """Whether a file is the JSON of a group of seeds."""
    try:
        content = json_value(path.read_bytes())
    except (OSError, ValueError):
        return False
    return isinstance(content, dict) and content.get("kind") == GROUP_KIND


def seed_outcome(train_seed: TrainSeed, seed: int, path: Path) -> SeedTraining:
    """Trains one seed; what became of it."""
    try:
        done = train_seed(seed, path)
    except DivergedError as error:
        return SeedTraining(seed, path, {}, str(error))
    return SeedTraining(seed, path, done.meta, str(done.meta["history"][-1].get("alarm") or ""), bool(done.evaluation))


def group_csv(group: TrainedSeeds) -> bytes:
    """The CSV of a group."""
    lines = group_lines(group)
    return csv_bytes(frame_of_columns({name: [line[name] for line in lines] for name in lines[0]}))


def group_lines(group: TrainedSeeds) -> list[dict[str, Any]]:
    """The lines of the CSV: each number of each seed, then each mean; a seed that its guard ended has its alarm beside its numbers.

    Args:
        group: the trainings.
    """
    nothing = {"norm": "", "eps": 0.0, "data": "", "split": "", "n": 0, "accuracy": math.nan, "low": math.nan, "high": math.nan}
    lines = []
    for one in group.trainings:
        for probe, record in one.metrics.items() or [("", nothing)]:
            words = {key: record.get(key, "") for key in nothing}
            lines.append({"seed": str(one.seed), "checkpoint": one.path.name, "probe": probe, **words, "alarm": one.alarm})
    for probe, found in group.means.items():
        words = {key: group.sound[0].metrics[probe].get(key, "") for key in nothing}
        over = {"accuracy": found.mean, "low": found.low, "high": found.high, "sd": found.sd, "seeds": found.count}
        lines.append({"seed": "mean", "checkpoint": "", "probe": probe, **words, **over, "alarm": ""})
    columns = ["seed", "checkpoint", "probe", *nothing, "sd", "seeds", "alarm"]
    return [{name: line.get(name) for name in columns} for line in lines]


def group_json(group: TrainedSeeds) -> bytes:
    """The JSON of a group, with the same numbers as the CSV."""
    trainings = [
        {"seed": one.seed, "checkpoint": one.path.name, "metrics": plain_metrics(one.metrics), "alarm": one.alarm}
        for one in group.trainings
    ]
    means = {probe: plain_metrics({"": asdict(found)})[""] for probe, found in group.means.items()}
    content = {"kind": GROUP_KIND, "trainings": trainings, "means": means, "seeds": [one.seed for one in group.sound]}
    content["left_out"] = {str(seed): alarm for seed, alarm in group.left_out.items()}
    return f"{json.dumps(content, indent=2, allow_nan=False)}\n".encode()


def plain_metrics(metrics: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Numbers by probe with None for nan, which JSON does not know."""
    return {
        probe: {key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in record.items()}
        for probe, record in metrics.items()
    }
