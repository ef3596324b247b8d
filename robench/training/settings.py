"""What the words of a training mean: settings from a preset and the user, the plan they make, the network, the checkpoint's name."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from robench.core.errors import InputError
from robench.core.inputs import as_radius, as_word
from robench.core.recipes import Recipe, eps_text, lookup, parse_recipe, resolve, split_recipes, value_text
from robench.core.schedules import SCHEDULES
from robench.core.threat import NORMS, Threat, refuse_too_large_eps
from robench.data import Images, stratified_images
from robench.data.augment import AUGMENTATIONS
from robench.models import build_network
from robench.models.answers import dtype_word, trained_answer_notes
from robench.models.architectures import is_foreign
from robench.models.contract import CONTRACT_IMAGES, examine_model
from robench.models.identity import code_digests
from robench.models.layers import half_precision
from robench.models.stand_ins import PRECISIONS
from robench.objectives import OBJECTIVES, REGULARIZERS, Objective, facts_of, regularizers_of
from robench.training.frozen_parameters import prefixes_in
from robench.training.guards import GUARDS, has_weak_adversary
from robench.training.presets import FINE_TUNING, PRESETS
from robench.training.steps import OPTIMIZERS
from robench.training.types import TrainingPlan

PLAN_SETTINGS = (
    "epochs", "batch_size", "optimizer", "lr", "momentum", "nesterov",
    "weight_decay", "schedule", "augment", "ema", "label_smoothing", "probe_n",
    "mixup", "cutmix", "awp", "awp_warmup", "precision", "guard", "freeze",
    "accumulate", "swa",
)  # fmt: skip
SHARE_SETTINGS = ("ema", "swa", "label_smoothing", "awp_warmup", "momentum")
CHOICES = {"optimizer": "optimizer", "guard": "guard", "precision": "precision"}
MOST_AT_ONCE = 2**26  # numbers of pixels that are held as floats at once
FIFTH = 5  # at most that part of the training images is held out, unless asked for
SETTING_READERS: dict[str, Callable[[Any], Any]] = {  # what may be written in several ways from Python
    "eps": as_radius,
    "reg": lambda reg: tuple(split_recipes([reg] if isinstance(reg, str) else reg)),
    "freeze": prefixes_in,
}
GIVEN_NORMALISATION = "given"  # the normalisation by a mean and std that the user gave
LONGEST_STEM = 100  # letters of the name of a checkpoint
LARGEST_ALPHA = 1e6  # of a Beta distribution: all shares are 1/2 there, and from some 1e308 on numpy draws 0
POSITIVE_SETTINGS = ("epochs", "batch_size", "lr", "probe_n", "accumulate")
NOT_NEGATIVE_SETTINGS = ("held_out", "weight_decay", "mixup", "cutmix", "awp")
WHOLE_SETTINGS = ("epochs", "batch_size", "probe_n", "accumulate")
WORD_SETTINGS = ("arch", "activation", "objective", "norm", "optimizer", "schedule", "augment", "normalize", "precision", "guard", "extra")
NUMBER_SETTINGS = (*POSITIVE_SETTINGS, *SHARE_SETTINGS, *NOT_NEGATIVE_SETTINGS)


def resolved_settings(preset: str, overrides: Mapping[str, Any], *, is_begun: bool = False) -> tuple[dict[str, Any], list[str]]:
    """The preset's settings with the user's on top, and notes.

    Where neither names an objective it is the base of the regularisers' papers, or standard training without any.

    Args:
        preset: its name.
        overrides: what the user gives, by the name of the setting; None leaves the preset's.
        is_begun: whether the training begins with weights, which say their normalisation.

    Raises:
        InputError: for unknown names, and for values that cannot be.
    """
    settings = dict(lookup(preset, PRESETS, "preset"))
    overrides, usual = overrides_with_normalisation(overrides), settings["normalize"]
    for key, value in overrides.items():
        lookup(key, settings, "training option")
        if value is not None:
            settings[key] = (
                SETTING_READERS[key](value) if key in SETTING_READERS else as_word(value, key) if key in WORD_SETTINGS else value
            )
    its = PRESETS[preset]
    if settings["norm"] != its["norm"] and settings["norm"] in NORMS and overrides.get("eps") is None:
        raise InputError(
            f"which radius in {settings['norm']}? The preset {preset} has {its['norm']} eps {eps_text(its['eps'])}, "
            f"which says nothing about {settings['norm']}: give eps (--eps)"
        )
    for key in NUMBER_SETTINGS:
        numeric = isinstance(settings[key], (int, float)) and not isinstance(settings[key], bool)
        if not numeric or (key in WHOLE_SETTINGS and math.isfinite(settings[key]) and settings[key] != int(settings[key])):
            raise InputError(f"{key} must be a {'whole ' * (key in WHOLE_SETTINGS)}number, not {settings[key]!r}")
    wrong = [f"{key} {settings[key]}" for key in NUMBER_SETTINGS if math.isinf(settings[key])]
    wrong += [f"{key} {settings[key]}" for key in ("mixup", "cutmix") if settings[key] > LARGEST_ALPHA]
    wrong += [f"{key} {settings[key]}" for key in POSITIVE_SETTINGS if not settings[key] > 0]
    wrong += [f"{key} {settings[key]}" for key in SHARE_SETTINGS if not 0 <= settings[key] < 1]
    wrong += [f"{key} {settings[key]}" for key in NOT_NEGATIVE_SETTINGS if not settings[key] >= 0]
    if wrong:
        raise InputError(f"out of range: {', '.join(dict.fromkeys(wrong))}")
    if not isinstance(settings["nesterov"], bool):
        raise InputError(f"nesterov must be true or false, not {settings['nesterov']!r}")
    if settings["optimizer"] != "sgd" and settings["nesterov"] != its["nesterov"]:
        raise InputError(f"nesterov is an option of sgd's momentum, which {settings['optimizer']} does not have: leave it out")
    refuse_two_of_a_kind(settings)
    for key, table in (("optimizer", OPTIMIZERS), ("guard", GUARDS), ("precision", PRECISIONS)):
        lookup(settings[key], dict.fromkeys(table), CHOICES[key])
    lookup(parse_recipe(settings["augment"]).name, AUGMENTATIONS, "augmentation")  # no file of the user's: its digest would be missing
    resolve(parse_recipe(settings["augment"]), AUGMENTATIONS, "augmentation")
    if is_foreign(parse_recipe(settings["arch"]).name) and overrides.get("activation") is None:
        settings["activation"] = "relu"  # the preset's is for our own architectures
    settings["objective"], notes = objective_sentence(settings["objective"], settings["reg"])
    if given_normalisation(settings["normalize"]) and usual not in ("none", settings["normalize"]) and not is_begun:
        notes.append(f"pixels are normalised by the mean and std given, in place of the preset's --normalize {usual}")
    return settings, notes


def refuse_two_of_a_kind(settings: Mapping[str, Any]) -> None:
    """InputError for two settings that do the same in different ways."""
    for one, other, deed in (("mixup", "cutmix", "mix the images of a batch"), ("ema", "swa", "average the weights")):
        if settings[one] and settings[other]:
            raise InputError(f"{one} and {other} both {deed}: choose one of them")


def overrides_with_normalisation(overrides: Mapping[str, Any]) -> dict[str, Any]:
    """The overrides with `mean` and `std` as a normalisation among them.

    Args:
        overrides: settings by name; mean and std are one number a channel.

    Raises:
        InputError: where one of the two is missing, or `normalize` is given beside them.

    Example:
        >>> overrides_with_normalisation({"lr": 0.1, "mean": [0.5], "std": [0.25]})
        {'lr': 0.1, 'normalize': 'given,mean=0.5,std=0.25'}
    """
    rest = dict(overrides)
    mean, std = rest.pop("mean", None), rest.pop("std", None)
    if mean is None and std is None:
        return rest
    if mean is None or std is None:
        raise InputError("normalisation needs both numbers: give mean and std, or neither")
    if rest.get("normalize") is not None:
        raise InputError(f"mean and std are the normalisation: leave --normalize {rest['normalize']} out")
    rest["normalize"] = f"{GIVEN_NORMALISATION},mean={':'.join(map(repr, map(float, mean)))},std={':'.join(map(repr, map(float, std)))}"
    return rest


def given_normalisation(normalize: str) -> dict[str, list[float]]:
    """The mean and std that a normalisation carries, {} for data and none; InputError for anything else."""
    if normalize in ("none", "data"):
        return {}
    recipe = parse_recipe(normalize)
    if recipe.name != GIVEN_NORMALISATION or recipe.options.keys() != {"mean", "std"}:
        raise InputError(f"normalize is 'none' or 'data' (mean and spread of the training images), not {normalize!r}; or pass mean and std")
    return {key: [float(number) for number in str(value).split(":")] for key, value in recipe.options.items()}


def held_out_size(wanted: float, n: int, asked: bool) -> tuple[float, list[str]]:
    """How many training images are held out, and a note where that is not the preset's number.

    Args:
        wanted: a number of images, or a share below 1.
        n: how many images there are.
        asked: whether the user has asked for it; else at most a fifth of the images is held out.
    """
    if asked or wanted <= n // FIFTH:
        return wanted, []
    return n // FIFTH, [f"{n // FIFTH} of the {n} training images are held out, a fifth; --held-out chooses another number or a share"]


def objective_sentence(objective: str | None, reg: Sequence[str]) -> tuple[str, list[str]]:
    """The objective's sentence, and a note where the regularisers have chosen it; InputError where their papers disagree."""
    if objective is not None:
        return objective, []
    bases = {name: facts_of(name).base for name in (parse_recipe(sentence).name for sentence in reg)}
    objectives = sorted(set(bases.values()) - {"standard"})
    if len(objectives) > 1:
        raise InputError(f"{' and '.join(bases)} build on different objectives ({', '.join(objectives)}): choose one with --objective")
    choice = objectives[0] if objectives else "standard"
    of = [name for name, base in bases.items() if base == choice and name in REGULARIZERS]
    return choice, [f"the objective is {choice}, the base of {' and '.join(of)}; --objective chooses another"] if of else []


def loss_sentences(settings: Mapping[str, Any]) -> list[str]:
    """The objective and the regularisers, as they are written."""
    return [settings["objective"], *settings["reg"]]


def loss_recipes(settings: Mapping[str, Any]) -> list[Recipe]:
    """The objective and the regularisers, in this order, as recipes."""
    return [parse_recipe(sentence) for sentence in loss_sentences(settings)]


def plan_of(settings: Mapping[str, Any], seed: int, teacher: nn.Module | None) -> TrainingPlan:
    """The plan of a training with these settings.

    Args:
        settings: from `resolved_settings`.
        seed: of all random numbers of the training.
        teacher: the network that is learnt from, if there is one.

    Raises:
        InputError: for an unknown objective or regulariser, and for options of an objective, a schedule or a threat that cannot be.
    """
    recipes = loss_recipes(settings)
    refuse_too_large_eps(Threat(settings["norm"], settings["eps"]), None)
    resolve(parse_recipe(settings["schedule"]), SCHEDULES, "schedule")(0.0)  # which checks its options
    objective = resolve(recipes[0], OBJECTIVES, "objective")()
    if not isinstance(objective, Objective):
        raise InputError(f"objective {recipes[0].label!r} returned {type(objective).__name__} and no robench.objectives.Objective")
    return TrainingPlan(
        objective=objective,
        regularizers=regularizers_of(settings["reg"]),
        threat=Threat(settings["norm"], settings["eps"]),
        seed=seed,
        is_compiled=settings["compiled"],
        is_defended=any(facts_of(recipe.name).defence and recipe.weight != 0 for recipe in recipes),
        is_watched=has_weak_adversary(recipes),
        teacher=teacher,
        **{key: settings[key] for key in PLAN_SETTINGS},
    )


def checkpoint_stem(settings: Mapping[str, Any], preset: str, usual: str, data: str, seed: int) -> str:
    """The name of a checkpoint without its end: data, architecture, objective and regularisers, what else is not the preset's, seed.

    It has letters, digits, dots and dashes, at most 100 of them; of a longer name the last nine become a dash and a digest.

    Args:
        settings: of the training.
        preset: the name of its preset.
        usual: the preset that the name leaves out.
        data: the name of the data set.
        seed: of the training; 0 is left out.
    """
    its = PRESETS[preset]
    regs = [recipe_slug(parse_recipe(sentence)) for sentence in settings["reg"]]
    objectives = (
        []
        if regs and settings["objective"] == objective_sentence(None, settings["reg"])[0]
        else [recipe_slug(parse_recipe(settings["objective"]))]
    )
    covered_keys = (
        "arch",
        "objective",
        "reg",
        "held_out",
        *(["normalize", "activation"] if preset == FINE_TUNING else []),
        *(["activation"] if is_foreign(parse_recipe(settings["arch"]).name) else []),
    )
    apart = {key: value for key, value in settings.items() if key not in covered_keys and value != its.get(key)}
    others = [f"{key}-{value_slug(value)}" for key, value in apart.items()]
    preset_words = [] if preset == usual else [preset]
    source = data if ":" not in data else Path(data.partition(":")[2]).stem
    arch = settings["arch"] if ".py:" not in settings["arch"] else Path(settings["arch"]).name
    words = [source, arch, *objectives, *regs, *preset_words, *others, *([f"seed-{seed}"] if seed else [])]
    name = re.sub(r"[^A-Za-z0-9.]+", "-", "-".join(words)).strip("-.")
    return name if len(name) <= LONGEST_STEM else f"{name[: LONGEST_STEM - 9]}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


def recipe_slug(recipe: Recipe) -> str:
    """A recipe as a part of a file's name."""
    weight = [] if recipe.weight is None else [value_slug(recipe.weight)]
    return "-".join([recipe.label.removesuffix(".py"), *weight, *(f"{key}-{value_slug(value)}" for key, value in recipe.options.items())])


def value_slug(value: object) -> str:
    """A value as a part of a file's name: as one writes it, with a dash for the stroke of a fraction."""
    return value_text(value).replace("/", "-")


def images_of_all_classes(images: Images, n: int, seed: int) -> Images:
    """The first n images; where they lack a class, as in a file sorted by class, n with the same share of each."""
    first = images.take(slice(0, n))
    return first if len(first.y.unique()) == len(images.y.unique()) else stratified_images(images, n, seed)


def channel_statistics(images: Images) -> tuple[Tensor, Tensor]:
    """Mean and spread of the pixels of each channel, (C,) each; where they are many, in parts that fit into memory.

    Args:
        images: in memory or on the disk.
    """
    if len(images) * math.prod(images.shape) <= MOST_AT_ONCE:
        x = images.pixels(slice(None))
        return x.mean((0, 2, 3)), x.std((0, 2, 3))
    images.expect(slice(None))
    sums, count = torch.zeros(2, images.shape[0], dtype=torch.float64), 0
    for rows in torch.arange(len(images)).split(max(1, MOST_AT_ONCE // (16 * math.prod(images.shape)))):
        x = images.pixels(rows).cpu().double()
        sums[0] += x.sum((0, 2, 3))
        sums[1] += x.square().sum((0, 2, 3))
        count += x[:, 0].numel()
    mean = sums[0] / count
    return mean.float(), ((sums[1] - count * mean.square()) / (count - 1)).sqrt().float()


def channel_numbers(normalize: str, images: Images) -> tuple[list[float] | None, list[float] | None]:
    """The mean and std by which a training normalises its pixels, one number a channel each; None twice for none.

    Args:
        normalize: "data", "none", or what carries the numbers.
        images: those of which "data" takes mean and spread.

    Raises:
        InputError: for anything else.
    """
    given = {  # where one number is given, it is that of every channel
        key: numbers * images.shape[0] if len(numbers) == 1 else numbers for key, numbers in given_normalisation(normalize).items()
    }
    if normalize != "data":
        return given.get("mean"), given.get("std")
    mean, std = channel_statistics(images)
    return [round(number, 4) for number in mean.tolist()], [round(number, 4) for number in std.clamp_min(1e-3).tolist()]


def new_network(settings: Mapping[str, Any], images: Images, seed: int) -> tuple[nn.Module, dict[str, Any], list[str]]:
    """A network with weights drawn from the seed, the description from which a checkpoint rebuilds it, and notes.

    Initialisers are torch's, so the weights are drawn from torch's generator, which is put back afterwards.

    Args:
        settings: of the training.
        images: the training images, which give classes, shape, mean and std.
        seed: of the weights.

    Raises:
        InputError: for an architecture that is unknown or cannot be trained on these images.
    """
    chosen = images_of_all_classes(images, 5000, seed)
    mean, std = channel_numbers(settings["normalize"], chosen)
    some = chosen.pixels(slice(0, CONTRACT_IMAGES))
    about = {
        "arch": settings["arch"],
        "classes": len(images.classes),
        "shape": list(images.shape),
        "activation": settings["activation"],
        "mean": mean,
        "std": std,
        **({"preprocessing": images.preprocessing.plain()} if images.preprocessing else {}),
    }
    arguments: dict[str, Any] = {
        key: tuple(value) if isinstance(value, list) else value for key, value in about.items() if key not in ("arch", "preprocessing")
    }
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build_network(settings["arch"], **arguments)
        notes = foreign_network_notes(model, some, about) if is_foreign(parse_recipe(settings["arch"]).name) else []
    code = code_digests(settings["arch"])
    return model, {**about, **({"code": code} if code else {})}, notes


def foreign_network_notes(model: nn.Module, some: Tensor, about: Mapping[str, Any]) -> list[str]:
    """Notes on somebody else's network, tried on a few images; InputError where it cannot be trained as it is."""
    if (half := half_precision(model)) is not None:
        raise InputError(f"{about['arch']} has weights in {dtype_word(half)}, in which nothing is trained here: leave them in float32")
    told = trained_answer_notes(model, some)
    finding = examine_model(model, some)
    if finding.model is not model:
        raise InputError(f"{about['arch']} cannot be trained as it is: {finding.notes[0].partition(': ')[0]}; change its forward")
    with torch.no_grad():
        outputs = model(some).shape[1]
    if outputs < about["classes"]:
        raise InputError(f"{about['arch']} has {outputs} outputs, the data {about['classes']} classes")
    many = f"{about['arch']} has {outputs} outputs, the data {about['classes']} classes: it is trained on all its outputs"
    return [*([many] if outputs > about["classes"] else []), *told, *finding.notes]
