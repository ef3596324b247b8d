"""What an evaluation is to run: recipes become attacks, attacks at radii become stages, and all of it becomes the name of a run."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from robench.attacks import ATTACKS, ENGINES, fitted, reference
from robench.attacks.transfer import transfer
from robench.audits import GROUPS
from robench.calls import into_eval
from robench.claims import is_own
from robench.corruptions import CORRUPTIONS, scale_of
from robench.data import Images
from robench.data.corrupted import SYNTH
from robench.degradation import SETS
from robench.errors import InputError
from robench.explainers import EXPLAINERS
from robench.models import load
from robench.probes import PROBES
from robench.recipes import SIGNATURES, Recipe, did_you_mean, from_file, lookup, names_of, resolve, setting, spelled, takes
from robench.results.compare import Results
from robench.runs.measure import How
from robench.runs.pools import pool_of_images
from robench.runs.stages.attack import TRANSFER, Attack, attack_stage
from robench.runs.stages.clean import clean_stage
from robench.runs.stages.corruption import corruption_stage, parted
from robench.runs.stages.joined import joined_stage
from robench.runs.stages.method import Saving, jacobian_stage, method_stage
from robench.runs.stages.probe import probe_stage
from robench.runs.types import Pool, Stage
from robench.suites import SUITES, expanded, recipes, verdict_of
from robench.threat import Threat


def nothing(*_: str) -> None:
    """No file takes the maps."""
    return


KINDS: Mapping[str, Mapping[str, Callable[..., Any]]] = {
    "attack": ATTACKS, "probe": PROBES, "corruption": CORRUPTIONS, "method": EXPLAINERS,
}  # fmt: skip


def refuse_unknown(asked: Asked, engine: str) -> None:
    """InputError where a recipe, an option of one, or the engine is unknown, before anything is loaded."""
    lookup(engine, ENGINES, "engine")
    for recipe in [*(recipe for _, recipe in asked.recipes()), *asked.against]:
        refuse_unknown_recipe(recipe, engine)


def refuse_unknown_recipe(recipe: Recipe, engine: str) -> None:
    """InputError where a recipe or an option of it is unknown, or that on whose images it is measured."""
    kind = kind_of(recipe)
    plain = replace(recipe, on=None)
    if recipe.name.startswith(TRANSFER):
        if not recipe.name.removeprefix(TRANSFER).strip():
            raise InputError(f"{TRANSFER} names no model whose points are to be tried: write {TRANSFER}OTHER.pt")
    elif kind == "attack":
        resolve(plain, ENGINES[engine], "attack")
    elif kind == "corruption":
        for name in SETS.get(recipe.name, (recipe.name,)):
            resolve(parted(replace(plain, name=name))[0], CORRUPTIONS, "corruption")
    else:
        resolve(plain, KINDS[kind], kind)
    if recipe.on is not None:
        refuse_unknown_recipe(recipe.on, "robench")


def resolvable(chosen: Sequence[Recipe], engine: str) -> None:
    """InputError where a recipe is no attack, or the engine is unknown, before anything is loaded."""
    table = lookup(engine, ENGINES, "engine")
    for recipe in chosen:
        if recipe.name.startswith(TRANSFER):
            refuse_unknown_recipe(recipe, engine)
        else:
            resolve(recipe, table, "attack")


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
    if recipe.name in SETS:
        return "corruption"
    known = [*SUITES, *SETS, *(name for table in KINDS.values() for name in table)]
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
    kind, recipe = kind_of(recipe), replace(recipe, on=None)
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


@dataclass(frozen=True)
class Asked:
    """What a run is to measure.

    chosen   names of suites, files of recipes, recipes               threats  of the attacks, one at least
    against  recipes whose images all methods explain, too, and whose verdicts are set against the scores
    joined   results folders of earlier runs, with the subject of each, likewise
    scores   of the maps of methods; names of scores and groups       target, channels  as in `method_stage`
    scale    the severities of corruptions: cifar, imagenet or auto   photos   folder of frost photos, "" for a texture drawn here
    """

    chosen: Sequence[str | Recipe]
    threats: Sequence[Threat]
    against: Sequence[Recipe] = ()
    joined: Sequence[tuple[str, Results]] = ()
    scores: Sequence[Recipe] = ()
    target: str | int = "true"
    channels: str = "none"
    scale: str = "auto"
    photos: str = ""
    save_maps: Saving = nothing

    def recipes(self) -> list[tuple[str, Recipe]]:
        """Every recipe with its suite, those of attacks as the first norm has them."""
        return expanded(self.chosen, self.threats[0].norm)

    def verdict(self) -> str:
        """The name of the suite whose verdict has rows of its own, "" for none."""
        return verdict_of(self.chosen, [name for name, recipe in self.recipes() if kind_of(recipe) == "attack" and recipe.on is None])


def stages_of(asked: Asked, images: Images, how: How) -> list[Stage]:
    """The clean pass and the stages of recipes of any kind, in their order; the attacks of one kind of images make one cascade a norm."""
    clean, pool = clean_stage(), pool_of_images(images)
    chosen = [recipe for _, recipe in asked.recipes()]
    sources: dict[str, Stage] = {}
    changes = [stage for recipe in asked.against if (stage := source_of(recipe, pool, asked.threats[:1], how, clean, sources))]
    joined = [joined_stage(results, pool, subject, clean) for subject, results in asked.joined]
    changes += joined
    stages: list[Stage] = [clean, *sources.values(), *joined]
    attacked: set[str] = set()
    methods = [recipe for recipe in chosen if kind_of(recipe) == "method"]
    if methods and (own := [score for score in asked.scores if score.name in GROUPS["jacobian"]]):
        stages.append(jacobian_stage(own, clean=clean, target=asked.target, changes=changes))
    for recipe in chosen:
        kind, source = kind_of(recipe), source_of(recipe.on, pool, asked.threats, how, clean, sources)
        stages += [one for one in sources.values() if one not in stages]
        if kind == "attack":
            key = spelled(recipe.on) if recipe.on else ""
            stages += [] if key in attacked else cascade_stages(asked, key, how, clean, source)
            attacked.add(key)
        elif kind == "probe":
            stages.append(probe_stage(replace(recipe, on=None), clean=clean, source=source))
        elif kind == "corruption":
            stages += corruption_stages(recipe, images, pool, how, clean, source, asked, chosen)
        else:
            stages += method_stages(recipe, asked, clean, source, changes)
    refuse_twins(stages)
    return stages


def cascade_stages(asked: Asked, key: str, how: How, clean: Stage, source: Stage | None) -> list[Stage]:
    """The attacks on one kind of images, `key` as it is spelled, under every threat."""
    stages: list[Stage] = []
    for norm in dict.fromkeys(threat.norm for threat in asked.threats):
        mine = [
            replace(recipe, on=None)
            for _, recipe in expanded(asked.chosen, norm)
            if kind_of(recipe) == "attack" and (spelled(recipe.on) if recipe.on else "") == key
        ]
        threats = [threat for threat in asked.threats if threat.norm == norm]
        stages += attack_stages(
            resolved(mine, norm, how.engine, how.device), threats, how.engine, how.precision, clean=clean, source=source
        )
    return stages


def method_stages(recipe: Recipe, asked: Asked, clean: Stage, source: Stage | None, changes: Sequence[Stage]) -> list[Stage]:
    """A method on the images that its recipe names and, where those are the clean ones, on each change of them."""
    sources = [source] if source is not None else [None, *(one for one in changes if one.kept or one.images is not None)]
    return [
        method_stage(
            replace(recipe, on=None), asked.scores, clean=clean, source=one, target=asked.target, channels=asked.channels, changes=changes,
            save=asked.save_maps,
        )
        for one in sources
    ]  # fmt: skip


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
    recipe: Recipe, images: Images, pool: Pool, how: How, clean: Stage, source: Stage | None, asked: Asked, chosen: Sequence[Recipe]
) -> list[Stage]:
    """A corruption, or a set of them (fifteen, nineteen, noise), at the severity that its recipe names, or at all five."""
    if recipe.name in SETS:
        each = [replace(recipe, name=name) for name in SETS[recipe.name]]
        every = [one for other in chosen for one in ([replace(other, name=n) for n in SETS[other.name]] if other.name in SETS else [other])]
        return [stage for one in each for stage in corruption_stages(one, images, pool, how, clean, source, asked, every)]
    scale = scale_of(images.x[:1], str(recipe.options.get("scale", asked.scale)))
    more: dict[str, Any] = {"photos": asked.photos} if recipe.name == "frost" and asked.photos else {}
    frost = f" frost={'photos' if asked.photos else 'procedural'}" if any(one.name == "frost" for one in chosen) else ""
    words = {"setting": f"scale={scale}{frost}", "data": images.name + SYNTH, "split": images.split}
    if is_own(recipe.name):
        words["setting"], options = setting(resolve(parted(recipe)[0], CORRUPTIONS, "corruption")), dict(recipe.options)
    else:
        options = {**recipe.options, "scale": scale, **more}
    severities = [options["severity"]] if "severity" in options else [1, 2, 3, 4, 5]
    return [
        corruption_stage(
            replace(recipe, options={**options, "severity": severity}, on=None), pool, seed=how.seed, device=how.device,
            clean=clean, source=source, words=words,
        )
        for severity in severities
    ]  # fmt: skip


def refuse_twins(stages: Sequence[Stage]) -> None:
    """InputError where two stages have one name, so that their rows could not be told apart."""
    keys = [stage.key for stage in stages]
    for stage in stages:
        if keys.count(stage.key) > 1:
            raise InputError(f"{stage.name!r} is asked for twice: its rows could not be told apart")
