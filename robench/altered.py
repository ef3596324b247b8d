"""What became of the images under something else: an attack, a probe, a corruption, or an earlier run whose results lie on the disk."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from robench.attacks import ATTACKS
from robench.calls import frozen
from robench.claims import levels_of
from robench.corruptions import CORRUPTIONS
from robench.corruptions import corrupted as under
from robench.draws import Draws
from robench.errors import InputError
from robench.evaluation import Track, evaluate, pixels, untracked
from robench.plans import TRANSFER, resolvable
from robench.probes import PROBES
from robench.probing import predictions
from robench.recipes import Recipe, did_you_mean, parse, resolve
from robench.report.compare import Results
from robench.rows import Sample
from robench.suites import is_probe


@dataclass(frozen=True)
class Altered:
    """What something made of N images.

    name     pgd-20, random-noise, gaussian_noise-3, autoattack, ...: the word that rows and columns carry
    fallen   (N,) bool: the model is wrong on the changed image         tried   (N,) bool: right when clean, and tried
    x        (N, C, H, W) float32 in [0, 1], the changed images; None where only the verdicts are known
    places   (M,) whose changed image is to be explained: of an attack the fallen ones, else all that were tried
    norm     and eps: the threat of an attack, as the columns of its rows; empty and 0 for what has none
    """

    name: str
    fallen: Tensor
    tried: Tensor
    x: Tensor | None
    places: Tensor
    norm: str = ""
    eps: float = 0.0

    def words(self, places: Tensor) -> list[int | None]:
        """1 where the image fell, 0 where it stands, None where it was not tried, for the images at `places`."""
        pairs = zip(self.fallen[places].tolist(), self.tried[places].tolist(), strict=True)
        return [int(fell) if tried else None for fell, tried in pairs]


@dataclass(frozen=True)
class Scene:
    """A model with N images (N, C, H, W), their labels and ids, the threat of its attacks, and how it is called."""

    model: nn.Module
    x: Tensor
    y: Tensor
    ids: Tensor
    norm: str
    eps: float
    seed: int
    batch_size: int
    device: str
    track: Track = untracked


def known(sentence: str) -> Recipe:
    """The recipe of an attack, a probe or a corruption, whose name and options exist; InputError otherwise."""
    recipe = parse(sentence)
    if recipe.name in CORRUPTIONS:
        resolve(
            replace(recipe, options={key: value for key, value in recipe.options.items() if key != "severity"}), CORRUPTIONS, "corruption"
        )
    elif is_probe(recipe):
        resolve(recipe, PROBES, "probe")
    elif recipe.name in ATTACKS or recipe.name.startswith(TRANSFER) or ".py:" in recipe.name:
        resolvable([recipe], "robench")
    else:
        raise InputError(
            f"unknown attack, probe or corruption {recipe.name!r}{did_you_mean(recipe.name, [*ATTACKS, *PROBES, *CORRUPTIONS])}"
        )
    return recipe


def parted(recipe: Recipe) -> tuple[Recipe, int]:
    """The recipe of a corruption without its severity, and the severity, 3 if the user gave none."""
    options = dict(recipe.options)
    severity = options.pop("severity", 3)
    return replace(recipe, options=options), severity


def altered(recipe: Recipe, scene: Scene) -> Altered:
    """What an attack, a probe or a corruption makes of the images; InputError where it cannot be run on them."""
    if recipe.name in CORRUPTIONS:
        return corrupted(recipe, scene)
    return probed(recipe, scene) if is_probe(recipe) else attacked(recipe, scene)


def name_of(recipe: Recipe) -> str:
    """The name that the rows of a change carry, with a corruption's options that change its pixels (scale=imagenet, photos=FOLDER)."""
    if recipe.name not in CORRUPTIONS:
        return recipe.label
    plain, severity = parted(recipe)
    words = ["photos" if key == "photos" else str(value) for key, value in sorted(plain.options.items()) if value not in ("", "auto")]
    return "-".join([recipe.name, str(severity), *words])


def try_out(recipes: Sequence[Recipe], scene: Scene) -> None:
    """Runs every attack, probe and corruption on the first two images, with the model's own labels, so that all of them count as right.

    Raises InputError where `altered` would refuse one, before the other images are computed.
    """
    x, y, ids = scene.x[:2], scene.y[:2], scene.ids[:2]
    with frozen(scene.model.to(scene.device)):
        few = replace(scene, x=x, y=predictions(scene.model, x, y, scene.batch_size, scene.device), ids=ids, track=untracked)
    for recipe in recipes:
        altered(recipe, few)


def attacked(recipe: Recipe, scene: Scene) -> Altered:
    """The images after an attack of the model itself, checked as `evaluation` does; those that stand keep their clean image."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x_adv.npy"
        found = evaluate(
            scene.model, scene.x, scene.y, suite=[recipe], norm=scene.norm, eps=scene.eps, ids=scene.ids, seed=scene.seed,
            batch_size=scene.batch_size, device=scene.device, save=path, track=scene.track,
        )  # fmt: skip
        x_adv = torch.from_numpy(np.load(path))
    return replace(of_samples(recipe.label, found.samples, scene.ids, x_adv), norm=scene.norm, eps=scene.eps)


def of_samples(name: str, samples: Sequence[Sample], ids: Tensor, x_adv: Tensor | None) -> Altered:
    """What a per-sample table says of the images with these ids (N,); x_adv (N, C, H, W) in the order of the ids, if it is known."""
    broken = {sample.sample: sample.broken_by for sample in samples}
    tried = torch.tensor([broken.get(sample, "clean") != "clean" for sample in ids.tolist()])
    fallen = torch.tensor([broken.get(sample, "") not in ("", "clean") for sample in ids.tolist()])
    return Altered(name, fallen, tried, x_adv, fallen.nonzero().flatten())


def probed(recipe: Recipe, scene: Scene) -> Altered:
    """The images that the model gets right after the one level of a probe, in its first draw."""
    function, x = resolve(recipe, PROBES, "probe"), float_copy(scene.x)
    with frozen(scene.model, scene.device):
        tried = predictions(scene.model, scene.x, scene.y, scene.batch_size, scene.device) == scene.y
        fallen, levels = torch.zeros_like(tried), set[str]()
        chunks = tried.nonzero().flatten().split(scene.batch_size)
        for places in scene.track(chunks, recipe.label):
            draws = Draws(scene.seed, scene.ids[places].to(scene.device), recipe.label)
            some, labels = pixels(scene.x, places, scene.device), scene.y[places].to(scene.device)
            for level in levels_of(function, scene.model, some, labels, draws, recipe.label):
                levels.add(level.setting)
                if level.repeat == 0:
                    x[places], fallen[places] = level.x.cpu(), level.fooled.cpu()
            if len(levels) > 1:
                raise InputError(f"{recipe.label} has several levels ({', '.join(sorted(levels))}): choose one, such as random-noise,t=0.1")
    return Altered(recipe.label, fallen, tried, x, tried.nonzero().flatten())


def corrupted(recipe: Recipe, scene: Scene) -> Altered:
    """All images under a corruption, `NAME,severity=3` (1 to 5; 3 if not given), with the pixels that `robench corrupt` makes."""
    plain, severity = parted(recipe)
    resolve(plain, CORRUPTIONS, "corruption")
    name, chunks = name_of(recipe), torch.arange(len(scene.x)).split(scene.batch_size)
    parts = []
    for places in scene.track(chunks, name):
        x, ids = pixels(scene.x, places, scene.device), scene.ids[places].to(scene.device)
        parts.append(under(x, ids, recipe.name, severity, seed=scene.seed, **plain.options).cpu())
    x = torch.cat(parts)
    with frozen(scene.model, scene.device):
        tried = predictions(scene.model, scene.x, scene.y, scene.batch_size, scene.device) == scene.y
        fallen = predictions(scene.model, x, scene.y, scene.batch_size, scene.device) != scene.y
    return Altered(name, fallen & tried, tried, x, tried.nonzero().flatten())


def float_copy(x: Tensor) -> Tensor:
    """The images as new float pixels in [0, 1]."""
    return x.float() / 255 if x.dtype == torch.uint8 else x.clone()


def of_results(results: Results, scene: Scene) -> Altered:
    """What an earlier run of `robench eval` or `attack` found on these images: its last probe's verdicts, and its x_adv.npy if any.

    Images that the run did not see count as not tried. InputError where it saw others, or other labels, under the same ids.
    """
    where = {sample: place for place, sample in enumerate(scene.ids.tolist())}
    shared = [sample for sample in results.labels if sample in where]
    if not shared:
        raise InputError(f"{results.folder} has none of the images that are explained here: name the same --data, --n and --indices")
    for sample in shared:
        if results.labels[sample] != int(scene.y[where[sample]]):
            raise InputError(f"{results.folder} gives image {sample} another label than the data here: it was a run on other data")
    clean, last = results.stages[0], results.stages[-1]
    places = torch.tensor([where[sample] for sample in shared])
    tried, fallen = torch.zeros(len(scene.x), dtype=torch.bool), torch.zeros(len(scene.x), dtype=torch.bool)
    tried[places] = torch.tensor([sample in clean.standing for sample in shared])
    fallen[places] = torch.tensor([sample in clean.standing and sample not in last.standing for sample in shared])
    x_adv = saved_images(results, scene, where)
    return Altered(last.probe, fallen, tried, x_adv, fallen.nonzero().flatten(), last.norm, last.eps)


def saved_images(results: Results, scene: Scene, where: dict[int, int]) -> Tensor | None:
    """The adversarial images that a run kept, (N, C, H, W) as the scene orders them, clean ones for images it did not see, or None."""
    path = results.folder / "x_adv.npy"
    if not path.is_file():
        return None
    try:
        kept = np.load(path, mmap_mode="r", allow_pickle=False)
    except (OSError, ValueError) as error:
        raise InputError(f"{path} cannot be read as saved images: {error}") from None
    if kept.shape != (len(results.labels), *scene.x.shape[1:]) or kept.dtype != np.float32:
        raise InputError(
            f"{path} holds {kept.dtype} {kept.shape}, and the run it belongs to has {len(results.labels)} images of other shape"
        )
    x = float_copy(scene.x)
    rows = [(where[sample], row) for row, sample in enumerate(results.labels) if sample in where]
    x[[place for place, _ in rows]] = torch.from_numpy(np.ascontiguousarray(kept[[row for _, row in rows]]))
    return x
