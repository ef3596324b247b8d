"""What a run measures: the stages that the recipes of a request become, in their order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import torch

from robench.attacks import ENGINES, attack_for_classes, reference
from robench.attacks.transfer import transfer
from robench.core.corruption_names import SETS
from robench.core.errors import InputError
from robench.core.model_calls import into_eval
from robench.core.recipes import (
    Recipe,
    lookup,
    options_of,
    recipe_text,
    resolve,
    setting_text,
)
from robench.core.saved_results import ModelResults
from robench.core.threat import Threat
from robench.corruptions import CORRUPTIONS, scale_of
from robench.data import Images
from robench.data.corrupted_sets import SYNTH
from robench.evaluation.recipe_kinds import recipe_kind, refuse_no_images, refuse_unknown_recipe
from robench.evaluation.suites import expanded_recipes, suite_recipes, verdict_suite
from robench.models import load_with_origin
from robench.models.answers import answer_logits_alone
from robench.models.architectures import is_library
from robench.runs.own_functions import is_own
from robench.runs.pools import pool_of_images
from robench.runs.stages.attack import TRANSFER, Attack, attack_stage
from robench.runs.stages.clean import clean_stage
from robench.runs.stages.corruption import corruption_stage, recipe_and_severity
from robench.runs.stages.earlier_run import joined_stage
from robench.runs.stages.method import MapPaths, jacobian_stage, method_stage
from robench.runs.stages.probe import probe_stage
from robench.runs.types import Pool, RunOptions, Stage
from robench.scores import GROUPS


def no_map_path(*_: str) -> None:
    """No file takes the maps."""
    return


def refuse_unknown(request: RunRequest, engine: str) -> None:
    """Refuses a recipe, an option of one, or an engine that is unknown, before anything is loaded.

    Args:
        request: what is to be measured.
        engine: of the attacks.

    Raises:
        InputError: where one is unknown.
    """
    lookup(engine, ENGINES, "engine")
    for _, recipe in request.recipes():
        refuse_unknown_recipe(recipe, engine)
    for recipe in request.against:
        refuse_unknown_recipe(recipe, engine)
        refuse_no_images(recipe)


def resolved_attacks(
    suite: str | Sequence[Recipe], norm: str, engine: str, device: str, *, download: bool = False
) -> list[tuple[Recipe, Attack]]:
    """The recipes of a suite with the functions that they name in an engine; weights of surrogates are fetched where that is allowed.

    Args:
        suite: the name of a suite, or recipes.
        norm: of the threat.
        engine: whose functions are meant, a key of `ENGINES`.
        device: where surrogates run.
        download: whether weights of surrogates that are missing may be fetched.
    """
    table = lookup(engine, ENGINES, "engine")
    recipes = suite_recipes(suite, norm) if isinstance(suite, str) else suite
    return [
        (
            recipe,
            transfer_attack(recipe, device, download=download) if recipe.name.startswith(TRANSFER) else resolve(recipe, table, "attack"),
        )
        for recipe in recipes
    ]


def transfer_attack(recipe: Recipe, device: str, *, download: bool = False) -> Attack:
    """The transfer attack from the model that `transfer:MODEL` names; options that are none of the attack's are the model's."""
    name, options = recipe.name.removeprefix(TRANSFER), dict(recipe.options)
    if is_library(name):
        of_model = {key: options.pop(key) for key in recipe.options if key not in options_of(transfer)}
        name = recipe_text(Recipe(name, options=of_model))
    surrogate = load_with_origin(name, device=device, download=download)
    into_eval(surrogate.model).requires_grad_(False)
    attack = partial(transfer, surrogate=answer_logits_alone(surrogate.model))
    return resolve(Recipe("transfer", recipe.weight, options), {"transfer": attack}, "attack")


def fetch_named_surrogates(recipes: Sequence[Recipe], *, download: bool) -> None:
    """Opens the models that attacks name by a library, so that what is missing is fetched, or refused, before hours are spent.

    Args:
        recipes: recipes of any kind.
        download: whether weights that are missing may be fetched.

    Raises:
        InputError: where one cannot be opened.
    """
    for recipe in recipes:
        if recipe.name.startswith(TRANSFER) and is_library(recipe.name.removeprefix(TRANSFER)):
            transfer_attack(recipe, "cpu", download=download)


def surrogate_names(recipes: Sequence[Recipe]) -> list[str]:
    """The models whose points are tried on another, in `transfer:MODEL`.

    Args:
        recipes: recipes of any kind.
    """
    return [recipe.name.removeprefix(TRANSFER) for recipe in recipes if recipe.name.startswith(TRANSFER)]


def attack_stages(
    chosen: Sequence[tuple[Recipe, Attack]],
    threats: Sequence[Threat],
    engine: str,
    precision: str,
    *,
    clean: Stage,
    source: Stage | None = None,
) -> list[Stage]:
    """The attacks at every radius, the smallest first, each on what stands; a cascade for each norm."""
    how = f"engine={engine}" + (f" precision={precision}" if precision != "fp32" else "")
    stages: list[Stage] = []
    for threat in sorted(threats, key=lambda one: one.eps):
        for recipe, attack in chosen:
            before = [stage for stage in stages if stage.threat and stage.threat.norm == threat.norm]
            stages.append(attack_stage(recipe, attack, threat, how, clean=clean, source=source, before=before))
    return stages


def few_classes_notes(chosen: Sequence[tuple[Recipe, Attack]], classes: int, engine: str) -> list[str]:
    """What a model of few classes changes in the attacks."""
    left_out = reference.reference_limits(classes) if engine == "reference" else {}
    sentences = [f"{recipe.label}: {left_out[recipe.label]}" for recipe, _ in chosen if recipe.label in left_out]
    for recipe, attack in chosen:
        before, after = setting_text(attack).split(), setting_text(attack_for_classes(attack, classes)).split()
        words = " ".join(word for word in after if word not in before)
        sentences += [f"{recipe.label}: {words}, as the model has {classes} classes"] if words else []
    return list(dict.fromkeys(sentences))


def change_stage(
    recipe: Recipe, pool: Pool, threat: Threat, how: RunOptions, *, clean: Stage | None, source: Stage | None = None, scale: str = "auto",
    photos: str = "",
) -> Stage:  # fmt: skip
    """A stage whose images later ones are given: an attack, a probe of one level, or a corruption.

    Args:
        recipe: what makes the images.
        pool: the images.
        threat: of an attack.
        how: the options of the run.
        clean: the clean pass, or None where the clean images are not known.
        source: the stage whose images it is given; None for the clean ones.
        scale: the severities of a corruption whose recipe does not say it: "cifar", "imagenet" or "auto".
        photos: folder of frost photos, for a corruption whose recipe does not say it; "" for a texture drawn here.

    Raises:
        InputError: for a recipe that makes no images, and for one that needs clean images where there are none.
    """
    refuse_no_images(recipe)
    kind, recipe = recipe_kind(recipe), replace(recipe, on=None)
    if kind == "corruption":
        recipe = replace(recipe, options={**usual_options(recipe, scale, photos), **recipe.options})
        return corruption_stage(recipe, pool, seed=how.seed, device=how.device, clean=clean, source=source, reported=False)
    if clean is None:
        raise InputError(f"{recipe.label} needs the images as they are: name them with --data")
    if kind == "probe":
        return probe_stage(recipe, clean=clean, source=source, reported=False)
    attack = resolved_attacks([recipe], threat.norm, "robench", how.device, download=how.download)[0][1]
    return attack_stage(recipe, attack, threat, "engine=robench", clean=clean, source=source, reported=False)


def usual_options(recipe: Recipe, scale: str, photos: str) -> dict[str, str]:
    """The options of a corruption that hold for all of a run; of the user's own there are none."""
    if is_own(recipe.name):
        return {}
    return {**({"scale": scale} if scale != "auto" else {}), **({"photos": photos} if photos and recipe.name == "frost" else {})}


@dataclass(frozen=True)
class RunRequest:
    """What a run is to measure.

    Attributes:
        suites: names of suites, files of recipes, recipes.
        threats: of the attacks, one at least.
        against: recipes whose images all methods explain, too, and whose verdicts are set against the scores.
        earlier_runs: results of earlier runs, each with its subject; their images and verdicts are used as those of `against` are.
        scores: recipes of the scores of maps.
        target: which logit is explained: "true", "predicted" or the number of a class.
        channels: how the channels of a pixel become one size: "none", "sum", "max" or "mean".
        scale: the severities of corruptions: "cifar", "imagenet" or "auto".
        photos: folder of frost photos, "" for a texture drawn here.
        save_maps: save_maps(subject, method) -> the file that takes the maps, or None.
    """

    suites: Sequence[str | Recipe]
    threats: Sequence[Threat]
    against: Sequence[Recipe] = ()
    earlier_runs: Sequence[tuple[str, ModelResults]] = ()
    scores: Sequence[Recipe] = ()
    target: str | int = "true"
    channels: str = "none"
    scale: str = "auto"
    photos: str = ""
    save_maps: MapPaths = no_map_path

    def recipes(self) -> list[tuple[str, Recipe]]:
        """Every recipe with its suite, those of attacks as the first norm has them."""
        return expanded_recipes(self.suites, self.threats[0].norm)

    def verdict_suite(self) -> str:
        """The name of the suite whose verdict has rows of its own, "" for none."""
        return verdict_suite(
            self.suites, [name for name, recipe in self.recipes() if recipe_kind(recipe) == "attack" and recipe.on is None]
        )


def stages_of(request: RunRequest, images: Images, how: RunOptions) -> list[Stage]:
    """The clean pass and the stages of recipes of any kind, in their order; the attacks of one kind of images make one cascade a norm."""
    clean, pool = clean_stage(), pool_of_images(images)
    recipes = [recipe for _, recipe in request.recipes()]
    sources: dict[str, Stage] = {}
    source = partial(source_stage, pool=pool, how=how, clean=clean, known=sources, scale=request.scale, photos=request.photos)
    changes = [stage for recipe in request.against if (stage := source(recipe, threats=request.threats[:1]))]
    joined_stages = [joined_stage(results, pool, subject, clean) for subject, results in request.earlier_runs]
    changes += joined_stages
    stages: list[Stage] = [clean, *sources.values(), *joined_stages]
    attacked_sources: set[str] = set()
    methods = [recipe for recipe in recipes if recipe_kind(recipe) == "method"]
    if methods and (own := [score for score in request.scores if score.name in GROUPS["jacobian"]]):
        stages.append(jacobian_stage(own, clean=clean, target=request.target, changes=changes))
    for recipe in recipes:
        kind, before = recipe_kind(recipe), source(recipe.on, threats=request.threats)
        stages += [one for one in sources.values() if one not in stages]
        if kind == "attack":
            key = recipe_text(recipe.on) if recipe.on else ""
            stages += [] if key in attacked_sources else cascade_stages(request, key, how, clean, before)
            attacked_sources.add(key)
        elif kind == "probe":
            stages.append(probe_stage(replace(recipe, on=None), clean=clean, source=before))
        elif kind == "corruption":
            stages += corruption_stages(recipe, images, pool, how, clean, before, request, recipes)
        else:
            stages += method_stages(recipe, request, clean, before, changes)
    refuse_twins(stages)
    return stages


def cascade_stages(request: RunRequest, key: str, how: RunOptions, clean: Stage, source: Stage | None) -> list[Stage]:
    """The attacks on one kind of images, `key` as it is spelled, under every threat."""
    stages: list[Stage] = []
    for norm in dict.fromkeys(threat.norm for threat in request.threats):
        mine = [
            replace(recipe, on=None)
            for _, recipe in expanded_recipes(request.suites, norm)
            if recipe_kind(recipe) == "attack" and (recipe_text(recipe.on) if recipe.on else "") == key
        ]
        threats = [threat for threat in request.threats if threat.norm == norm]
        stages += attack_stages(
            resolved_attacks(mine, norm, how.engine, how.device, download=how.download),
            threats,
            how.engine,
            how.precision,
            clean=clean,
            source=source,
        )
    return stages


def method_stages(recipe: Recipe, request: RunRequest, clean: Stage, source: Stage | None, changes: Sequence[Stage]) -> list[Stage]:
    """A method on the images that its recipe names and, where those are the clean ones, on each change of them."""
    sources = [source] if source is not None else [None, *(one for one in changes if one.keeps_images or one.images is not None)]
    return [
        method_stage(
            replace(recipe, on=None), request.scores, clean=clean, source=one, target=request.target, channels=request.channels,
            changes=changes, save=request.save_maps,
        )
        for one in sources
    ]  # fmt: skip


def source_stage(
    recipe: Recipe | None, pool: Pool, threats: Sequence[Threat], how: RunOptions, clean: Stage, known: dict[str, Stage],
    scale: str = "auto",
    photos: str = "",
) -> Stage | None:  # fmt: skip
    """The stage that gives the images of another, made once; None for the images as they are. Scale and photos as in `RunRequest`."""
    if recipe is None:
        return None
    if recipe_kind(recipe) == "attack" and len(threats) > 1:
        raise InputError(f"images of {recipe.label} are those of one threat, and there are {len(threats)}: leave one")
    before = source_stage(recipe.on, pool, threats, how, clean, known, scale, photos)
    key = recipe_text(recipe)
    if key not in known:
        known[key] = change_stage(recipe, pool, threats[0], how, clean=clean, source=before, scale=scale, photos=photos)
    return known[key]


def corruption_stages(
    recipe: Recipe,
    images: Images,
    pool: Pool,
    how: RunOptions,
    clean: Stage,
    source: Stage | None,
    request: RunRequest,
    chosen: Sequence[Recipe],
) -> list[Stage]:
    """A corruption, or a set of them (fifteen, nineteen, noise), at the severity that its recipe names, or at all five."""
    if recipe.name in SETS:
        each = [replace(recipe, name=name) for name in SETS[recipe.name]]
        every = [one for other in chosen for one in ([replace(other, name=n) for n in SETS[other.name]] if other.name in SETS else [other])]
        return [stage for one in each for stage in corruption_stages(one, images, pool, how, clean, source, request, every)]
    options: dict[str, Any] = {**usual_options(recipe, request.scale, request.photos), **recipe.options}
    words = {"setting": setting_text(resolve(recipe_and_severity(replace(recipe, on=None))[0], CORRUPTIONS, "corruption"))}
    if not is_own(recipe.name):
        options["scale"] = scale_of(torch.empty(1, *images.shape), str(options.get("scale", "auto")))
        words["setting"] = f"scale={options['scale']}{frost_word(chosen, request.photos)}"
    words |= {"data": images.name + SYNTH, "split": images.split}
    severities = [options["severity"]] if "severity" in options else [1, 2, 3, 4, 5]
    return [
        corruption_stage(
            replace(recipe, options={**options, "severity": severity}, on=None), pool, seed=how.seed, device=how.device,
            clean=clean, source=source, words=words,
        )
        for severity in severities
    ]  # fmt: skip


def frost_word(chosen: Sequence[Recipe], photos: str) -> str:
    """How the settings of corruptions tell what frost was made of; "" where there is none."""
    frosts = [one for one in chosen if one.name == "frost"]
    return f" frost={'photos' if any(one.options.get('photos', photos) for one in frosts) else 'procedural'}" if frosts else ""


def refuse_twins(stages: Sequence[Stage]) -> None:
    """Raises InputError where two stages have one name, so that their rows could not be told apart."""
    keys = [name_of_rows(stage) for stage in stages]
    for stage, key in zip(stages, keys, strict=True):
        if keys.count(key) > 1:
            raise InputError(
                f"{stage.name!r} is asked for twice: its rows could not be told apart, as they carry its name and not its options; "
                f"run the two in two calls{twin_advice(stage)}"
            )


def twin_advice(stage: Stage) -> str:
    """What other way there is to have a stage with other options in the same run."""
    return ", or name one with its steps (pgd-10, pgd-20)" if stage.kind == "attack" and stage.name.partition("-")[0] == "pgd" else ""


def name_of_rows(stage: Stage) -> object:
    """What the rows of a stage are known by."""
    return (stage.about["corruption"], stage.about["severity"]) if stage.kind == "corruption" and stage.is_reported else stage.key
