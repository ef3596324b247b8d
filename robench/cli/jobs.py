"""What a measuring command is asked for: its recipes and options, what refuses them, and the words that identify its run."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robench.cli.loading import LoadedSubject, checkpoint_words
from robench.cli.options import AttackOptions, CommonOptions
from robench.core.errors import InputError
from robench.core.recipes import Recipe, eps_text

if TYPE_CHECKING:
    from robench.core.threat import Threat
    from robench.report.result import Result


@dataclass(frozen=True)
class Job:
    """What a command is to measure.

    Attributes:
        command: name of the command: eval, attack or saliency.
        title: what is measured, in the names of folders, tables and pictures.
        suites: names of suites, files of recipes, recipes.
        examine: whether the diagnostics are run.
        against: recipes whose images the methods explain, too.
        join: results folders of earlier runs.
        scores: names of scores and groups of saliency maps.
        target: which logit the maps explain: "true", "predicted" or the number of a class.
        channels: how the channels of a pixel become one size: "none", "sum", "max" or "mean".
        save: whether the maps are written.
    """

    command: str
    title: str
    suites: Sequence[str | Recipe]
    examine: bool = False
    against: Sequence[Recipe] = ()
    join: Sequence[Path] = ()
    scores: Sequence[str] | None = None
    target: str = "true"
    channels: str = "none"
    save: bool = False

    def recipes(self, norm: str = "linf") -> list[Recipe]:
        """Every recipe, those of attacks as a suite has them in a norm."""
        from robench.evaluation.suites import expanded_recipes

        return [recipe for _, recipe in expanded_recipes(self.suites, norm)]

    def methods(self) -> list[Recipe]:
        """The recipes of saliency methods."""
        return [recipe for recipe in self.recipes() if self.is_of_kind(recipe, "method")]

    @staticmethod
    def is_of_kind(recipe: Recipe, wanted: str) -> bool:
        """Whether a recipe names a stage of a kind."""
        from robench.evaluation.recipe_kinds import recipe_kind

        return recipe_kind(recipe) == wanted

    def kinds(self) -> set[str]:
        """The kinds of stage that have rows."""
        from robench.evaluation.recipe_kinds import recipe_kind

        return {recipe_kind(recipe) for recipe in self.recipes()}

    def chained_recipes(self) -> list[Recipe]:
        """The recipes that are run for their rows or for their images."""
        return [part for recipe in [*self.recipes(), *self.against] for part in recipe_chain(recipe)]

    def attacks(self) -> list[Recipe]:
        """The recipes that have a radius, whether they are run for their rows or for their images."""
        return [recipe for recipe in self.chained_recipes() if self.is_of_kind(recipe, "attack")]

    def corruption_names(self) -> set[str]:
        """The corruptions of robench's own that are made, for their rows or for their images."""
        from robench.core.corruption_names import SETS
        from robench.corruptions import CORRUPTIONS

        return {name for recipe in self.chained_recipes() for name in SETS.get(recipe.name, (recipe.name,)) if name in CORRUPTIONS}


def recipe_chain(recipe: Recipe) -> list[Recipe]:
    """A recipe, followed by those whose images it is given."""
    return [recipe, *(recipe_chain(recipe.on) if recipe.on else [])]


@dataclass(frozen=True)
class LoadedJob:
    """A job with its options, the models that were loaded for it and what follows from both.

    Attributes:
        job: what is measured.
        common: options that every measuring command has.
        attacking: options of commands that attack.
        subjects: the models, one at least, all with the same images.
        threats: threats of the attacks, one at least.
        batch_size: number of images in a batch.
    """

    job: Job
    common: CommonOptions
    attacking: AttackOptions
    subjects: Sequence[LoadedSubject]
    threats: Sequence[Threat]
    batch_size: int


def suite_and_title(words: Sequence[str]) -> tuple[list[str | Recipe], str]:
    """The suites and recipes that --suite names, and a title for them: a suite that is named alone is taken by its name."""
    from robench.attacks import ATTACKS
    from robench.core.recipes import parse_recipe, split_recipes
    from robench.evaluation.suites import SUITES, is_suite_file

    sentences = split_recipes(words)
    several = len(sentences) > 1  # where pgd is the attack of that name
    entries: list[str | Recipe] = [
        one if (one in SUITES and not (several and one in ATTACKS)) or is_suite_file(one) else parse_recipe(one) for one in sentences
    ]
    names = [
        Path(one).stem if isinstance(one, str) and is_suite_file(one) else one if isinstance(one, str) else one.title for one in entries
    ]
    return entries, names[0] if len(names) == 1 else "+".join(names) if len(names) < 4 else f"{len(names)} recipes"


# --- what refuses a job


def refuse_unused_options(job: Job, attacking: AttackOptions) -> None:
    """InputError where an option was given that nothing in the job has a use for."""
    kinds, attacks, corruptions = job.kinds(), job.attacks(), job.corruption_names()
    usual = {"engine": "robench", "precision": "fp32", "scale": "auto"}
    of_attacks = ("norm", "eps", "threat", "engine", "precision", "compiled", "until", "save_png")
    has_use = {**dict.fromkeys(of_attacks, bool(attacks)), "score": "method" in kinds}
    has_use |= {"scale": bool(corruptions), "frost_dir": "frost" in corruptions}
    for name, is_used in has_use.items():
        if getattr(attacking, name) not in (None, False, usual.get(name)) and not is_used:
            option = {"compiled": "compile"}.get(name, name).replace("_", "-")
            what = f"{job.title} is a probe, which" if kinds == {"probe"} else f"nothing in {job.title}"
            raise InputError(f"{what} has {'no' if kinds == {'probe'} else 'a'} use for --{option}: leave it out")
    if attacking.threat and (attacking.norm or attacking.eps):
        raise InputError("--threat says its norm and radius: leave --norm and --eps out")


def refuse_unused_radius(job: Job, norm: str | None, eps: float | None) -> None:
    """InputError where a threat is given and no attack would use it."""
    if not job.attacks() and (norm is not None or eps is not None):
        raise InputError("--norm and --eps belong to an attack: name one with --against, such as --against pgd-20, or leave them out")


def refuse_unknown_names(job: Job, attacking: AttackOptions, norms: Sequence[str]) -> None:
    """InputError where a recipe in one of the norms, the engine or a score is unknown, before anything is loaded."""
    from robench.core.threat import Threat
    from robench.evaluation.methods import score_recipe
    from robench.evaluation.plans import RunRequest, refuse_unknown

    for norm in norms:
        refuse_unknown(RunRequest(job.suites, [Threat(norm, 0.0)], against=job.against), attacking.engine)
    for score in [*(job.scores or ()), *(attacking.score or ())]:
        score_recipe(score)


def refuse_several_processes(what: str) -> None:
    """InputError where `torchrun` started several processes for something that one process does."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError(f"{what} runs in one process: leave torchrun out")


def threats_of(subjects: Sequence[LoadedSubject], job: Job, attacking: AttackOptions) -> list[Threat]:
    """The threats of a run: those of --threat, else the norm and the radii of the models.

    Raises:
        InputError: where a job with attacks has models of different norms or radii.
    """
    from robench.core.threat import Threat
    from robench.evaluation.arguments import as_threat

    if attacking.threat:
        return [as_threat(words) for words in attacking.threat]
    attacks = job.attacks()
    if attacks and len({(one.norm, one.radii) for one in subjects}) > 1:
        raise InputError(
            f"the models were trained for different threats: pass --norm and --eps, so that {attacks[0].label} is the same for all"
        )
    return [Threat(subjects[0].norm, eps) for eps in subjects[0].radii]


# --- the words that identify a run


def job_words(loaded: LoadedJob) -> dict[str, Any]:
    """What was asked of a run, as plain JSON values: everything that its numbers depend on."""
    job, common, kinds = loaded.job, loaded.common, loaded.job.kinds()
    words: dict[str, Any] = {"command": job.command, **checkpoint_and_data(loaded.subjects), "seed": common.seed}
    if job.command == "saliency":
        words |= saliency_words(loaded)
    elif kinds == {"probe"} and not job.attacks():
        from robench.evaluation.run_words import recipe_words

        words["probes"] = [recipe_words(recipe) for recipe in job.recipes()]
        words |= {"save": True} if loaded.attacking.save else {}
    else:
        words |= suite_run_words(loaded)
    return {**words, **({"budget": common.budget} if common.budget is not None else {})}


def saliency_words(loaded: LoadedJob) -> dict[str, Any]:
    """The words of `robench saliency`."""
    from robench.evaluation.run_words import recipe_words, results_words, score_words

    job, threat = loaded.job, loaded.threats[0]
    return {
        "methods": [recipe_words(recipe) for recipe in job.methods()],
        "against": [recipe_words(recipe) for recipe in job.against], "scores": score_words(job.scores or ()), "target": job.target,
        "channels": job.channels, "join": [results_words(folder) for folder in sorted(job.join)],
        "inductive": "probe" in job.kinds(), "save": job.save,
        **({"norm": threat.norm, "eps": threat.eps} if job.attacks() else {}),
    }  # fmt: skip


def suite_run_words(loaded: LoadedJob) -> dict[str, Any]:
    """The words of `robench eval` and `robench attack`, where more than probes is asked for."""
    from robench.corruptions.frost import photos_digest
    from robench.evaluation.run_words import score_words, suite_words

    job, attacking = loaded.job, loaded.attacking
    words: dict[str, Any] = {"suite": suite_words(job.suites), "save": attacking.save}
    words |= attack_words(loaded) if job.attacks() else {}
    words |= {"scores": score_words(attacking.score or ("gini",))} if "method" in job.kinds() else {}
    if job.corruption_names():
        words |= {"scale": attacking.scale, "frost_dir": photos_digest(str(attacking.frost_dir or ""))}
    return words


def attack_words(loaded: LoadedJob) -> dict[str, Any]:
    """The threats and how the attacks run; the batch size only where verdicts depend on it."""
    attacking, threats = loaded.attacking, loaded.threats
    by_batch = attacking.engine == "reference" or attacking.until is not None
    radii = [threat.eps for threat in threats]
    return {
        **({"threats": [*map(threat_text, threats)]} if attacking.threat else {"norm": threats[0].norm, "eps": radii}),
        "engine": attacking.engine, "precision": attacking.precision, "until": attacking.until,
        "batch_size": loaded.batch_size if by_batch else None, **({"save_png": True} if attacking.save_png else {}),
    }  # fmt: skip


def only_adds_time(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> bool:
    """Whether a run asks for what another did, and for more time.

    Args:
        theirs: words of the earlier run.
        ours: words of this run.
    """
    from robench.core.folders import can_go_on_by_budget

    rest = [{key: value for key, value in words.items() if key != "budget"} for words in (theirs, ours)]
    return rest[0] == rest[1] and can_go_on_by_budget(theirs, ours)


def checkpoint_and_data(subjects: Sequence[LoadedSubject]) -> dict[str, Any]:
    """What the words and the manifest say of the models and the images: one checkpoint, or a list of them."""
    images = subjects[0].images
    files = {"files": images.files_digest} if images.files_digest else {}
    return {
        "checkpoint": checkpoint_words([one.loaded for one in subjects]),
        "data": {"name": images.name, "split": images.split, "n": len(images), "sha256": images.sha256, **files},
    }


def threat_text(threat: Threat) -> str:
    """A threat as the command line spells it, such as linf:8/255."""
    return f"{threat.norm}:{eps_text(threat.eps)}"


def subjects_text(subjects: Sequence[LoadedSubject]) -> str:
    """The models in a title: the name of one, the number of several."""
    return subjects[0].loaded.name if len(subjects) == 1 else f"{len(subjects)} models"


def run_title(loaded: LoadedJob) -> str:
    """The title of tables and pictures: what is measured, the models, the images, the threat, the seed; {n} is the number of images."""
    job, data = loaded.job, loaded.subjects[0].images
    images = f"{data.name} {data.split}, n = {{n}}"
    norms = dict.fromkeys(threat.norm for threat in loaded.threats)
    threat = "; ".join(f"{norm} eps = {', '.join(eps_text(one.eps) for one in loaded.threats if one.norm == norm)}" for norm in norms)
    under = f", {threat}" if job.attacks() and job.command != "saliency" else ""
    first = f"{job.title} of " if job.command != "saliency" else ""
    return f"{first}{subjects_text(loaded.subjects)} on {images}{under}, seed {loaded.common.seed}"


# --- what the manifest says


def manifest_entries(loaded: LoadedJob) -> dict[str, Any]:
    """What the manifest says of a job besides models and images; a function of the result where that is needed."""
    job = loaded.job
    entries: dict[str, Any] = {"threat": manifest_threat(loaded.threats)} if job.attacks() else {}
    if job.command == "saliency":
        return {**entries, "audit": lambda result: manifest_saliency(job, result)}
    attacking = loaded.attacking
    how = {"engine": attacking.engine, "precision": attacking.precision, "until": attacking.until}
    return {**entries, **({"how": how} if job.attacks() else {})}


def manifest_threat(threats: Sequence[Threat]) -> Any:
    """What the manifest says of the threat: norm and eps, or a list of several."""
    norms = list(dict.fromkeys(threat.norm for threat in threats))
    each: list[Any] = []
    for norm in norms:
        radii = sorted(threat.eps for threat in threats if threat.norm == norm)
        each.append({"norm": norm, "eps": radii if len(radii) > 1 else radii[0]})
    return each[0] if len(each) == 1 else each


def manifest_saliency(job: Job, result: Result) -> dict[str, Any]:
    """What the manifest says of scored saliency maps."""
    from robench.results.score_rows import layers_of
    from robench.results.scores import all_subject_scores

    layers = layers_of(all_subject_scores(result.run))
    return {
        **({"layers": layers} if layers else {}),
        "methods": [recipe.title for recipe in job.methods()], "scores": list(job.scores or ()),
        "target": job.target, "channels": job.channels,
        "against": [f"{recipe.title} {recipe.options}" if recipe.options else recipe.title for recipe in job.against],
    }  # fmt: skip
