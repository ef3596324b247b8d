"""Options that several commands share, each written once, and the groups of them that measuring commands take as one argument."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import wraps
from pathlib import Path
from typing import Annotated, Any, get_type_hints

import typer

from robench.core.recipes import parse_fraction


def parse_eps(text: str) -> float:
    """Reads a radius such as 8/255 or 0.3; refuses negative ones."""
    try:
        eps = parse_fraction(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    if eps < 0:
        raise typer.BadParameter(f"a radius cannot be negative: {text}")
    return eps


@dataclass(frozen=True)
class Radii:
    """One radius or several."""

    values: tuple[float, ...]


def parse_radii(text: str) -> Radii:
    """Reads radii parted by commas, such as 1/255,2/255."""
    return Radii(tuple(parse_eps(part) for part in text.split(",")))


@dataclass(frozen=True)
class SeedList:
    """One seed or several."""

    values: tuple[int, ...]


def parse_seeds(text: str) -> SeedList:
    """Reads seeds parted by commas, such as 0,1,2."""
    words = [word.strip() for word in text.split(",")]
    if wrong := [word for word in words if not word.isdecimal() or not word.isascii()]:
        raise typer.BadParameter(f"{wrong[0]!r} is no seed: write whole numbers parted by commas, such as 0,1,2")
    return SeedList(tuple(map(int, words)))


def parse_batch_size(text: str) -> int:
    """Reads a number of images in a batch; "auto" becomes 0."""
    if text == "auto":
        return 0
    if not text.isdecimal() or int(text) < 1:
        raise typer.BadParameter(f"{text!r} is neither a number of at least 1 nor 'auto'")
    return int(text)


def parse_half_width(text: str) -> float:
    """Reads the half-width of an interval, between 0 and 0.5."""
    try:
        width = parse_fraction(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    if not 0 < width < 0.5:
        raise typer.BadParameter(f"a half-width lies between 0 and 0.5: {text}")
    return width


def parse_count(text: str) -> int:
    """Reads a number of images; "all" becomes 0."""
    if text == "all":
        return 0
    if not text.isdecimal() or int(text) < 1:
        raise typer.BadParameter(f"{text!r} is neither a number of at least 1 nor 'all'")
    return int(text)


def parse_count_or_share(text: str) -> float:
    """Reads how many of some images: a whole number, or a share of them below 1, such as 0.2 or 1/5."""
    try:
        part = parse_fraction(text)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
    if not 0 <= part < 1 and not (part >= 1 and part == int(part)):
        raise typer.BadParameter(f"{text!r} is neither a share below 1 nor a whole number of images")
    return int(part) if part == int(part) else part


def parse_seconds(text: str) -> float:
    """Reads a time, such as 90s, 20m or 1.5h; a bare number is of seconds."""
    unit = {"s": 1, "m": 60, "h": 3600}.get(text[-1:], 0)
    try:
        seconds = parse_fraction(text[:-1] if unit else text) * (unit or 1)
    except ValueError:
        raise typer.BadParameter(f"{text!r} is no time: write it as 90s, 20m or 1.5h") from None
    if seconds <= 0:
        raise typer.BadParameter(f"a budget must be longer than nothing: {text}")
    return seconds


@dataclass(frozen=True)
class Channels:
    """One number a channel."""

    values: tuple[float, ...]


def parse_channels(text: str) -> Channels:
    """Reads numbers parted by commas, one a channel."""
    try:
        return Channels(tuple(parse_fraction(part) for part in text.split(",")))
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None


@dataclass(frozen=True)
class Severities:
    """One severity or several."""

    values: tuple[int, ...]


def parse_severities(text: str) -> Severities:
    """Reads severities parted by commas, such as 1,3,5."""
    parts = text.split(",")
    if not all(part in ("1", "2", "3", "4", "5") for part in parts) or len(set(parts)) < len(parts):
        raise typer.BadParameter(f"severities are whole numbers from 1 to 5, parted by commas, each once: {text}")
    return Severities(tuple(sorted(map(int, parts))))


def split_paths(given: Sequence[Path] | None) -> list[Path]:
    """The paths of an option that may be repeated, with those that were joined by commas apart; one that exists as it is stays whole."""
    return [part for path in given or () for part in ([path] if path.exists() else map(Path, str(path).split(",")))]


Budget = Annotated[
    float | None,
    typer.Option(
        "--budget", parser=parse_seconds, metavar="TIME",
        help="Images in random order, block by block through everything, until the time is spent, such as 20m; over all resumes.",
    ),
]  # fmt: skip
Threats = Annotated[
    list[str] | None,
    typer.Option("--threat", metavar="NORM:EPS", help="A threat such as linf:8/255; repeated, several, and the worst of them."),
]
Scale = Annotated[str, typer.Option("--scale", help="Severities of cifar or imagenet. Default: by the size of the images.")]
FrostDir = Annotated[Path | None, typer.Option("--frost-dir", metavar="DIR", help="Photos of frost. Default: a texture drawn here.")]
Scores = Annotated[
    list[str] | None,
    typer.Option("--score", help="Scores of saliency maps, where the suite has methods: see 'robench list scores'. Default: gini."),
]
ModelArgument = Annotated[
    str,
    typer.Argument(
        metavar="MODEL", help="A checkpoint, weights with --arch, file.py:factory, tv/NAME,weights=DEFAULT, ...: 'robench list models'."
    ),
]
ModelArguments = Annotated[
    list[str],
    typer.Argument(
        metavar="MODEL...",
        help="One or several: a checkpoint, weights with --arch, file.py:factory, tv/NAME,weights=DEFAULT, ...: 'robench list models'.",
    ),
]
Data = Annotated[
    str | None,
    typer.Option("--data", help="Data set: see 'robench list data', or your own file.py:function. Default: that of the checkpoint."),
]
DataDir = Annotated[Path | None, typer.Option("--data-dir", help="Folder that holds the data sets of torchvision.")]
Download = Annotated[bool, typer.Option("--download", help="Fetch a data set or weights that are missing.")]
SplitOption = Annotated[str, typer.Option("--split", help="train or test.")]
ImageSize = Annotated[
    int | None, typer.Option("--image-size", help="Resize and centre-crop images to this size. Default: what the model says, if it does.")
]
Resize = Annotated[int | None, typer.Option("--resize", help="Shorter side before the crop, such as 256. Default: --image-size.")]
Interpolation = Annotated[
    str | None,
    typer.Option("--interpolation", help="How images are resized: bilinear, bicubic, lanczos, box, hamming or nearest. Default: bilinear."),
]
PixelPlace = Annotated[
    str,
    typer.Option(
        "--pixels", metavar="auto|memory|disk", help="Decode image files at the start, or as they are asked for. Default: by their size."
    ),
]
DecodingWorkers = Annotated[
    int | None, typer.Option("--workers", min=0, max=256, help="Processes that decode image files. Default: one a core, at most four.")
]
SkipDamaged = Annotated[bool, typer.Option("--skip-damaged", help="Leave image files out that cannot be read, and count them.")]
Layout = Annotated[
    str | None,
    typer.Option(
        "--layout",
        help="What the folders in folder:PATH are, where they do not tell: splits, classes, imagenet[,labels=FILE][,numbering=devkit], "
        "imagenet-v2, tiny-imagenet or file.py:function.",
    ),
]
ClassOrder = Annotated[
    str | None,
    typer.Option("--class-order", help="text or number: how numbered class folders count, where the model does not know their names."),
]
Classes = Annotated[
    str | None,
    typer.Option("--classes", help="by-name or as-is: how labels find the model's outputs. Default: by name where both have names."),
]
LabelMap = Annotated[
    Path | None, typer.Option("--label-map", help="A csv or json file: class of the data, and its output by number, wnid or name.")
]
OutputChoice = Annotated[
    str | None,
    typer.Option(
        "--outputs", help="all or data: choose labels among all outputs, or those of the data's classes. Default: as its authors."
    ),
]
N = Annotated[
    int | None, typer.Option("--n", parser=parse_count, metavar="N|all", help="The first N images, or all. Default: at most 500.")
]
Shuffle = Annotated[bool, typer.Option("--shuffle", help="Draw the N images with the seed instead of taking the first.")]
Indices = Annotated[
    Path | None, typer.Option("--indices", help="File with the indices or file names of the images to take, one a line (.gz too).")
]
Seed = Annotated[int, typer.Option("--seed", min=0, max=2**32 - 1, help="Seed of every random number.")]
Norm = Annotated[
    str | None,
    typer.Option("--norm", help="linf, l2 or l1; another than the default needs --eps. Default: that of the checkpoint, else linf."),
]
RadiusOption = Annotated[
    Radii | None,
    typer.Option(
        "--eps",
        parser=parse_radii,
        metavar="EPS[,EPS...]",
        help="Radius, such as 8/255; several give a security curve. Default: that of the checkpoint, else 8/255.",
    ),
]
OneRadius = Annotated[
    float | None,
    typer.Option("--eps", parser=parse_eps, metavar="EPS", help="Radius of attacks, such as 8/255. Default: the checkpoint's, else 8/255."),
]
BatchSize = Annotated[
    int | None,
    typer.Option(
        "--batch-size",
        parser=parse_batch_size,
        metavar="N|auto",
        help="Images in one batch; auto tries sizes until no larger one is quicker. Default: 250, 64 of 224 pixels.",
    ),
]
Engine = Annotated[str, typer.Option("--engine", help="robench, or reference: AutoAttack's attacks by their authors' code.")]
Precision = Annotated[str, typer.Option("--precision", help="fp32, tf32 or bf16 for the attacks; every claim is checked in fp32.")]
Compile = Annotated[bool, typer.Option("--compile", help="Compile the attacks' arithmetic: some 20 s the first time, quicker afterwards.")]
Until = Annotated[
    float | None,
    typer.Option(
        "--until",
        parser=parse_half_width,
        metavar="WIDTH",
        help="Images in random order until the 95 % interval is +- WIDTH, such as 0.03.",
    ),
]
Resume = Annotated[
    bool, typer.Option("--resume", help="Go on with the unfinished run in --out, or show the finished one; with the same words.")
]
Force = Annotated[bool, typer.Option("--force", help="Replace the run in --out, once the new one is whole.")]
Save = Annotated[bool, typer.Option("--save", help="Write what is made: x_adv.npy, images of probes and corruptions, maps.")]
SavePng = Annotated[
    bool,
    typer.Option(
        "--save-png", help="Write the adversarial images that fool in 8 bits, too, as x_adv-ID.png, within the radius where they fell."
    ),
]
Strict = Annotated[bool, typer.Option("--strict", help="Exit with code 1 if a flag is raised.")]
Device = Annotated[str, typer.Option("--device", help="auto, cpu, cuda or mps.")]
Threads = Annotated[int | None, typer.Option("--threads", min=1, help="CPU threads.")]
Out = Annotated[Path | None, typer.Option("--out", help="Folder for the results. Default: results/<time>-<model>-<what>.")]
LogOption = Annotated[
    list[str] | None,
    typer.Option(
        "--log", metavar="TRACKER", help="tensorboard, mlflow[,experiment=NAME] or file.py:function; several by commas or repeated."
    ),
]
Plan = Annotated[
    bool, typer.Option("--plan", help="Only say what it will cost, from a few timed batches: passes, time, memory, disk. Writes nothing.")
]
OnCluster = Annotated[
    str | None, typer.Option("--on", metavar="ENGINE", help="Cells or models side by side on Ray: ray, ray:HOST:PORT (docs/cluster.md).")
]
GpusEach = Annotated[
    float | None,
    typer.Option("--gpus-each", min=0, help="With --on: GPUs of each cell or model, such as 0.5. Default: 1 where there are any."),
]
Quiet = Annotated[bool, typer.Option("--quiet", help="No progress and no messages; only the result.")]
Arch = Annotated[str | None, typer.Option("--arch", help="Architecture of a bare state_dict: see 'robench list models'.")]
Activation = Annotated[str | None, typer.Option("--activation", help="Its activation: relu, silu, gelu or softplus. Default: relu.")]
Weights = Annotated[
    str | None, typer.Option("--weights", metavar="KEY", help="Which weights of a file that holds several, such as state_dict_ema.")
]
Mean = Annotated[
    Channels | None, typer.Option("--mean", parser=parse_channels, metavar="M,M,M", help="Mean that a bare state_dict expects taken off.")
]
Std = Annotated[
    Channels | None,
    typer.Option("--std", parser=parse_channels, metavar="S,S,S", help="Spread that a bare state_dict expects divided out."),
]
Trust = Annotated[bool, typer.Option("--trust", help="Allow model files that can run code: pickles, TorchScript, .pt2.")]


@dataclass(frozen=True)
class CommonOptions:
    """The options of every measuring command: the images, how models are loaded, where results go."""

    data: Data = None
    data_dir: DataDir = None
    download: Download = False
    split: SplitOption = "test"
    image_size: ImageSize = None
    resize: Resize = None
    interpolation: Interpolation = None
    pixels: PixelPlace = "auto"
    workers: DecodingWorkers = None
    skip_damaged: SkipDamaged = False
    layout: Layout = None
    class_order: ClassOrder = None
    classes: Classes = None
    label_map: LabelMap = None
    outputs: OutputChoice = None
    n: N = None
    shuffle: Shuffle = False
    indices: Indices = None
    budget: Budget = None
    seed: Seed = 0
    batch_size: BatchSize = None
    arch: Arch = None
    activation: Activation = None
    weights: Weights = None
    mean: Mean = None
    std: Std = None
    trust: Trust = False
    device: Device = "auto"
    threads: Threads = None
    out: Out = None
    resume: Resume = False
    force: Force = False
    strict: Strict = False
    log: LogOption = None
    plan: Plan = False
    quiet: Quiet = False

    def image_options(self) -> dict[str, Any]:
        """The options that choose the images."""
        return {name: getattr(self, name) for name in IMAGE_OPTIONS}

    def loading_options(self) -> dict[str, Any]:
        """The options that say how models are loaded."""
        return {
            "arch": self.arch, "activation": self.activation, "weights": self.weights, "mean": self.mean and self.mean.values,
            "std": self.std and self.std.values, "trust": self.trust, "download": self.download,
        }  # fmt: skip


IMAGE_OPTIONS = (
    "data_dir", "download", "split", "image_size", "resize", "interpolation", "pixels", "workers", "skip_damaged", "layout", "class_order",
    "n", "shuffle", "indices",
)  # fmt: skip


@dataclass(frozen=True)
class AttackOptions:
    """The further options of commands that attack."""

    norm: Norm = None
    eps: RadiusOption = None
    threat: Threats = None
    until: Until = None
    engine: Engine = "robench"
    precision: Precision = "fp32"
    compiled: Compile = False
    scale: Scale = "auto"
    frost_dir: FrostDir = None
    score: Scores = None
    save: Save = False
    save_png: SavePng = False


def with_option_groups(command: Callable[..., None]) -> Callable[..., None]:
    """The command with the options of its groups written out, as Typer reads them.

    Args:
        command: a function with arguments annotated `CommonOptions` or `AttackOptions`, and options of its own.

    Returns:
        A function that takes every field of the groups as an option of its own.
    """
    hints, signature = get_type_hints(command, include_extras=True), inspect.signature(command)
    groups = {name: kind for name, kind in hints.items() if kind in (CommonOptions, AttackOptions)}
    own = [p.replace(annotation=hints[p.name]) for p in signature.parameters.values() if p.name not in groups]
    parts = {
        name: [
            inspect.Parameter(part.name, inspect.Parameter.KEYWORD_ONLY, default=part.default, annotation=its[part.name])
            for its in [get_type_hints(kind, include_extras=True)]
            for part in fields(kind)
        ]
        for name, kind in groups.items()
    }

    @wraps(command)
    def flat(**given: Any) -> None:
        group_values = {name: kind(**{part.name: given.pop(part.name) for part in parts[name]}) for name, kind in groups.items()}
        command(**given, **group_values)

    each = [*(p.replace(kind=inspect.Parameter.KEYWORD_ONLY) for p in own), *(part for its in parts.values() for part in its)]
    flat.__signature__ = signature.replace(parameters=each)  # type: ignore[attr-defined]
    flat.__annotations__ = {part.name: part.annotation for part in each} | {"return": None}
    return flat
