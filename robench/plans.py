"""What an evaluation is to run: recipes become attacks, attacks at radii become stages, and all of it becomes the name of a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from robench.attacks import ATTACKS, ENGINES, fitted, reference
from robench.attacks.transfer import transfer
from robench.calls import into_eval
from robench.claims import is_own
from robench.corruptions import CORRUPTIONS, scale_of
from robench.data import Images
from robench.data.corrupted import SYNTH
from robench.errors import InputError
from robench.explainers import EXPLAINERS
from robench.models import load
from robench.probes import PROBES
from robench.recipes import SIGNATURES, Recipe, did_you_mean, from_file, lookup, names_of, resolve, setting, spelled, takes
from robench.runs.measure import How
from robench.runs.pools import pool_of_images
from robench.runs.stages.attack import TRANSFER, Attack, attack_stage
from robench.runs.stages.clean import clean_stage
from robench.runs.stages.corruption import corruption_stage, parted
from robench.runs.stages.method import method_stage
from robench.runs.stages.probe import probe_stage
from robench.runs.types import Pool, Stage
from robench.suites import recipes
from robench.threat import Threat

KINDS: Mapping[str, Mapping[str, Callable[..., Any]]] = {
    "attack": ATTACKS, "probe": PROBES, "corruption": CORRUPTIONS, "method": EXPLAINERS,
}  # fmt: skip


def resolvable(chosen: Sequence[Recipe], engine: str) -> None:
    """InputError where a recipe or the engine is unknown, before anything is loaded."""
    table = lookup(engine, ENGINES, "engine")
    for recipe in chosen:
        if not recipe.name.startswith(TRANSFER):
            resolve(recipe, table, "attack")
        elif not recipe.name.removeprefix(TRANSFER).strip():
            raise InputError(f"{TRANSFER} names no model whose points are to be tried: write {TRANSFER}OTHER.pt")


def resolved(suite: str | Sequence[Recipe], norm: str, engine: str, device: str) -> list[tuple[Recipe, Attack]]:
    """The recipes of a suite with the functions that they name in an engine."""
    table = lookup(engine, ENGINES, "engine")
    chosen = recipes(suite, norm) if isinstance(suite, str) else suite
    return [
        (recipe, from_surrogate(recipe, device) if recipe.name.startswith(TRANSFER) else resolve(recipe, table, "attack"))
        for recipe in chosen
    ]


def from_surrogate(recipe: Recipe, device: str) -> Attack:
    """The transfer attack from the model that `transfer:MODEL` names."""
    surrogate = load(recipe.name.removeprefix(TRANSFER), device=device)
    into_eval(surrogate.model).requires_grad_(False)
    attack = partial(transfer, surrogate=surrogate.model)
    return resolve(Recipe("transfer", recipe.weight, recipe.options), {"transfer": attack}, "attack")


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


def changes(chosen: Sequence[tuple[Recipe, Attack]], classes: int, engine: str) -> list[str]:
    """What a model of few classes changes in the attacks."""
    left_out = reference.limits(classes) if engine == "reference" else {}
    found = [f"{recipe.label}: {left_out[recipe.label]}" for recipe, _ in chosen if recipe.label in left_out]
    for recipe, attack in chosen:
        before, after = setting(attack).split(), setting(fitted(attack, classes)).split()
        words = " ".join(word for word in after if word not in before)
        found += [f"{recipe.label}: {words}, as the model has {classes} classes"] if words else []
    return list(dict.fromkeys(found))


def kind_of(recipe: Recipe) -> str:
    """What a recipe names: an attack, a probe, a corruption or a method; InputError for an unknown name.

    Of a function of the user's own, what its arguments say, unless the recipe says it: `probe:mine.py:flip`.
    """
    if recipe.kind:
        return recipe.kind
    if recipe.name.startswith(TRANSFER):
        return "attack"
    if ".py:" in recipe.name:
        return kind_of_own(recipe)
    for kind, table in KINDS.items():
        if recipe.name in table:
            return kind
    known = [name for table in KINDS.values() for name in table]
    raise InputError(f"unknown attack, probe, corruption or method {recipe.name!r}{did_you_mean(recipe.name, known)}")


def kind_of_own(recipe: Recipe) -> str:
    """What a function of the user's own is, by its arguments. InputError where they do not tell."""
    names = names_of(from_file(recipe.name))
    if "threat" in names:
        return "attack"
    if "severity" in names:
        return "corruption"
    if "target" in names:
        return "method"
    function = from_file(recipe.name)
    fitting = [kind for kind in ("attack", "probe", "corruption") if takes(function, SIGNATURES[kind])]
    if len(fitting) == 1 or (fitting and not names):
        return fitting[0]
    ways = " or ".join(f"{kind}:{recipe.name}" for kind in fitting or ("attack", "probe"))
    raise InputError(f"{recipe.label}({', '.join(names)}) may be more than one thing: say which, as in {ways}")


def change_stage(recipe: Recipe, pool: Pool, threat: Threat, how: How, *, clean: Stage | None, source: Stage | None = None) -> Stage:
    """A stage whose images later ones are given: an attack, a probe of one level, or a corruption."""
    kind = kind_of(recipe)
    if kind == "corruption":
        return corruption_stage(recipe, pool, seed=how.seed, device=how.device, clean=clean, source=source, reported=False)
    if clean is None:
        raise InputError(f"{recipe.label} needs the images as they are: name them with --data")
    if kind == "probe":
        return probe_stage(recipe, clean=clean, source=source, reported=False)
    if kind == "attack":
        attack = resolved([recipe], threat.norm, "robench", how.device)[0][1]
        return attack_stage(recipe, attack, threat, "engine=robench", clean=clean, source=source, reported=False)
    raise InputError(f"{recipe.label} makes maps and no images: nothing can be measured on them")


def stages_of(
    chosen: Sequence[Recipe], images: Images, threats: Sequence[Threat], how: How, *, scores: Sequence[Recipe] = (), scale: str = "auto",
    photos: str = "", target: str | int = "true", channels: str = "none",
) -> list[Stage]:  # fmt: skip
    """The clean pass and the stages of recipes of any kind, in their order; the attacks of one kind of images make one cascade a norm.

    chosen  recipes; `RECIPE on OTHER` is measured on the images that OTHER makes; fifteen, nineteen and noise stand for corruptions
    scores  of the maps of methods              scale, photos  as in `corrupting.made`
    """
    clean, pool = clean_stage(), pool_of_images(images)
    sources: dict[str, Stage] = {}
    stages: list[Stage] = [clean]
    attacks: dict[str, list[Recipe]] = {}
    for recipe in chosen:
        if kind_of(recipe) == "attack":
            attacks.setdefault(spelled(recipe.on) if recipe.on else "", []).append(recipe)
    for recipe in chosen:
        kind, source = kind_of(recipe), source_of(recipe.on, pool, threats, how, clean, sources)
        stages += [one for one in sources.values() if one not in stages]
        if kind == "attack":
            group = attacks.pop(spelled(recipe.on) if recipe.on else "", [])
            own = resolved(group, threats[0].norm, how.engine, how.device) if group else []
            stages += attack_stages(own, threats, how.engine, how.precision, clean=clean, source=source)
        elif kind == "probe":
            stages.append(probe_stage(recipe, clean=clean, source=source))
        elif kind == "corruption":
            stages += corruption_stages(recipe, images, pool, how, clean, source, scale, photos, chosen)
        else:
            stages.append(method_stage(recipe, scores, clean=clean, source=source, target=target, channels=channels))
    refuse_twins(stages)
    return stages


def source_of(
    recipe: Recipe | None, pool: Pool, threats: Sequence[Threat], how: How, clean: Stage, known: dict[str, Stage]
) -> Stage | None:
    """The stage that gives the images of another, made once; None for the images as they are."""
    if recipe is None:
        return None
    if kind_of(recipe) == "attack" and len(threats) > 1:
        raise InputError(f"images of {recipe.label} are those of one threat, and there are {len(threats)}: leave one")
    before = source_of(recipe.on, pool, threats, how, clean, known)
    key = spelled(recipe)
    if key not in known:
        known[key] = change_stage(recipe, pool, threats[0], how, clean=clean, source=before)
    return known[key]


def corruption_stages(
    recipe: Recipe, images: Images, pool: Pool, how: How, clean: Stage, source: Stage | None, scale: str, photos: str,
    chosen: Sequence[Recipe],
) -> list[Stage]:  # fmt: skip
    """A corruption at the severity that its recipe names, or at all five."""
    scale = scale_of(images.x[:1], str(recipe.options.get("scale", scale)))
    more: dict[str, Any] = {"photos": photos} if recipe.name == "frost" and photos else {}
    frost = f" frost={'photos' if photos else 'procedural'}" if any(one.name == "frost" for one in chosen) else ""
    words = {"setting": f"scale={scale}{frost}", "data": images.name + SYNTH, "split": images.split}
    if is_own(recipe.name):
        words["setting"], options = setting(resolve(parted(recipe)[0], CORRUPTIONS, "corruption")), dict(recipe.options)
    else:
        options = {**recipe.options, "scale": scale, **more}
    severities = [options["severity"]] if "severity" in options else [1, 2, 3, 4, 5]
    return [
        corruption_stage(
            replace(recipe, options={**options, "severity": severity}), pool, seed=how.seed, device=how.device, clean=clean, source=source,
            words=words,
        )
        for severity in severities
    ]  # fmt: skip


def refuse_twins(stages: Sequence[Stage]) -> None:
    """InputError where two stages have one name, so that their rows could not be told apart."""
    keys = [stage.key for stage in stages]
    for stage in stages:
        if keys.count(stage.key) > 1:
            raise InputError(f"{stage.name!r} is asked for twice: its rows could not be told apart")
