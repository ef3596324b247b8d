"""What the measuring commands do: load images and models, measure with `evaluation.api`, write the results, print them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import typer

from robench.cli.console import print_message, print_table, print_to_stderr, tracker
from robench.cli.loading import (
    LoadedSubject,
    checkpoint_words,
    load_subjects,
    loading_flags,
    loading_notes,
    quickest_batch_size,
    refuse_other_orders,
)
from robench.cli.options import AttackOptions, CommonOptions
from robench.core.errors import InputError
from robench.core.files import file_stem
from robench.core.recipes import Recipe, eps_text

if TYPE_CHECKING:
    from robench.core.folders import Destination
    from robench.core.journal import Adds
    from robench.core.processes import World
    from robench.core.threat import Threat
    from robench.report.result import Result

BATCH_SIZE = 250
MOST_LEVELS = 3  # levels of a probe that a terminal shows
PNG_PATTERN = "x_adv-*.png"  # of adversarial images


@dataclass(frozen=True)
class Job:
    """What a command is to measure.

    title    in the names of folders, tables and pictures       chosen   names of suites, files of recipes, recipes
    against  recipes whose images methods explain, too          join     results folders of earlier runs
    scores, target, channels  of saliency maps                  save     whether the maps are written
    examine  whether the diagnostics are run                    words    what else identifies the run
    """

    command: str
    title: str
    chosen: Sequence[str | Recipe]
    examine: bool = False
    against: Sequence[Recipe] = ()
    join: Sequence[Path] = ()
    scores: Sequence[str] | None = None
    target: str = "true"
    channels: str = "none"
    save: bool = False
    words: Mapping[str, Any] = field(default_factory=dict)

    def recipes(self, norm: str = "linf") -> list[Recipe]:
        """Every recipe, those of attacks as they are in a norm."""
        from robench.evaluation.suites import expanded_recipes

        return [recipe for _, recipe in expanded_recipes(self.chosen, norm)]

    @staticmethod
    def is_of_kind(recipe: Recipe, wanted: str) -> bool:
        """Whether a recipe names a stage of a kind."""
        from robench.evaluation.recipe_kinds import recipe_kind

        return recipe_kind(recipe) == wanted

    def kinds(self) -> set[str]:
        """What kinds of stage have rows."""
        from robench.evaluation.recipe_kinds import recipe_kind

        return {recipe_kind(recipe) for recipe in self.recipes()}

    def attacks(self) -> list[Recipe]:
        """The recipes that have a radius, whether for their rows or for their images."""
        from robench.evaluation.recipe_kinds import recipe_kind

        every = [part for recipe in [*self.recipes(), *self.against] for part in recipe_chain(recipe)]
        return [recipe for recipe in every if recipe_kind(recipe) == "attack"]


def suite_and_title(words: Sequence[str]) -> tuple[list[str | Recipe], str]:
    """What --suite names, and its title: a suite alone is taken by its name."""
    from robench.attacks import ATTACKS
    from robench.core.recipes import parse_recipe, split_recipes
    from robench.evaluation.suites import SUITES, is_suite_file

    sentences = split_recipes(words)
    several = len(sentences) > 1  # where pgd is the attack of that name
    chosen: list[str | Recipe] = [
        one if (one in SUITES and not (several and one in ATTACKS)) or is_suite_file(one) else parse_recipe(one) for one in sentences
    ]
    names = [
        Path(one).stem if isinstance(one, str) and is_suite_file(one) else one if isinstance(one, str) else one.title for one in chosen
    ]
    return chosen, names[0] if len(names) == 1 else "+".join(names) if len(names) < 4 else f"{len(names)} recipes"


def refuse_unused_options(job: Job, attacking: AttackOptions) -> None:
    """InputError where an option was given that nothing that is asked for has a use for."""
    kinds, attacks = job.kinds(), job.attacks()
    usual = {"engine": "robench", "precision": "fp32", "scale": "auto"}
    of_attacks = ("norm", "eps", "threat", "engine", "precision", "compiled", "until", "save_png")
    needs = {**dict.fromkeys(of_attacks, bool(attacks)), "score": "method" in kinds}
    needs |= {"scale": bool(corruption_names(job)), "frost_dir": "frost" in corruption_names(job)}
    for name, useful in needs.items():
        if getattr(attacking, name) not in (None, False, usual.get(name)) and not useful:
            option = {"compiled": "compile"}.get(name, name).replace("_", "-")
            what = f"{job.title} is a probe, which" if kinds == {"probe"} else f"nothing in {job.title}"
            raise InputError(f"{what} has {'no' if kinds == {'probe'} else 'a'} use for --{option}: leave it out")
    if attacking.threat and (attacking.norm or attacking.eps):
        raise InputError("--threat says its norm and radius: leave --norm and --eps out")


def corruption_names(job: Job) -> set[str]:
    """The corruptions of robench's own that a run makes, for their rows or for their images."""
    from robench.corruptions import CORRUPTIONS
    from robench.corruptions.benchmark import SETS

    every = [part for recipe in [*job.recipes(), *job.against] for part in recipe_chain(recipe)]
    return {name for recipe in every for name in SETS.get(recipe.name, (recipe.name,)) if name in CORRUPTIONS}


def recipe_chain(recipe: Recipe) -> list[Recipe]:
    """A recipe, and all whose images it is given."""
    return [recipe, *(recipe_chain(recipe.on) if recipe.on else [])]


def refuse_unused_radius(job: Job, norm: str | None, eps: float | None) -> None:
    """InputError where a threat is given and no attack would use it."""
    if not job.attacks() and (norm is not None or eps is not None):
        raise InputError("--norm and --eps belong to an attack: name one with --against, such as --against pgd-20, or leave them out")


def threats_of(what: Sequence[LoadedSubject], job: Job, attacking: AttackOptions) -> list[Threat]:
    """The threats of a run: those of --threat, else the norm and radii of the models, which must be the same for all that are attacked."""
    from robench.core.threat import Threat
    from robench.evaluation.arguments import as_threat

    if attacking.threat:
        return [as_threat(words) for words in attacking.threat]
    attacks = job.attacks()
    if attacks and len({(one.norm, one.radii) for one in what}) > 1:
        raise InputError(
            f"the models were trained for different threats: pass --norm and --eps, so that {attacks[0].label} is the same for all"
        )
    return [Threat(what[0].norm, eps) for eps in what[0].radii]


def run_job(models: Sequence[str], job: Job, common: CommonOptions, attacking: AttackOptions) -> None:
    """Measures models by what a job names."""
    from robench.core.threat import Threat
    from robench.evaluation.arguments import as_threat
    from robench.evaluation.methods import score_recipe
    from robench.evaluation.plans import RunRequest, refuse_unknown, surrogate_names

    refuse_unused_options(job, attacking)
    norms = [as_threat(words).norm for words in attacking.threat or ()] or [attacking.norm or "linf"]
    for norm in norms:
        refuse_unknown(RunRequest(job.chosen, [Threat(norm, 0.0)], against=job.against), attacking.engine)
    for score in [*(job.scores or ()), *(attacking.score or ())]:
        score_recipe(score)
    radii = attacking.eps.values if attacking.eps else (0.0,) if attacking.threat else None
    what = load_subjects(models, norms[0] if attacking.threat else attacking.norm, radii, common)
    threats = threats_of(what, job, attacking)
    others = surrogate_names([*job.recipes(threats[0].norm), *job.against])
    refuse_other_orders(what[0].images.classes, others, what[0].classes, "surrogate")
    size = batch_size_of(what[0], common)
    notes = compiler_notes() if attacking.compiled else []

    def measure(place: Destination, quiet: bool) -> Result:
        result = job_result(what, job, common, attacking, threats, size, place, quiet=quiet, compiled=not notes)
        result.notes[:0] = notes
        return result

    told = {"threat": manifest_threat(threats)} if job.attacks() else {}
    told |= {"how": manifest_attack_options(attacking)} if job.attacks() and job.command != "saliency" else {}
    told |= {"audit": partial(manifest_audit, job)} if job.command == "saliency" else {}
    arrays = ["x_adv*.npy", "x-*.npy", "maps-*.npy"] * attacking.save + [PNG_PATTERN] * attacking.save_png + ["maps-*.npy"] * job.save
    words = job_words(what, job, common, attacking, threats, size)
    measure_and_report(
        what, job.title, words, run_title(what, job, common, threats), common, measure, arrays=arrays, told=told, adds=only_adds_time
    )


def batch_size_of(one: LoadedSubject, common: CommonOptions) -> int:
    """The batch size that the user wants: the quickest for --batch-size auto."""
    return quickest_batch_size(one.loaded, one.images, one.device) if common.batch_size == 0 else common.batch_size or BATCH_SIZE


def measure_and_report(
    what: Sequence[LoadedSubject], name: str, words: dict[str, Any], title: str, common: CommonOptions, measure: Callable[[Destination,
    bool], Result], *,
    arrays: Sequence[str] = (), told: Mapping[str, Any], adds: Adds,
) -> None:  # fmt: skip
    """The run itself: writes tables, manifest, pictures and a page, prints tables, notes and flags; exit code 1 for a flag if --strict.

    Where `torchrun` started several processes, each measures its share and the first one reports.

    name    in the name of the folder              words   what identifies the run      title  of its tables; {n} is the number of images
    arrays  patterns of the arrays that `measure` writes                                told   what the manifest says besides
    """
    from robench.core.processes import join_world

    with join_world() as world, ExitStack() as stack:
        first = world.rank == 0
        claim = partial(run_place, common.out, subjects_text(what), name, words, resume=common.resume, force=common.force, adds=adds)
        place = shared_place(world, stack, claim)
        if place.finished:
            flags = print_finished_run(what, place, title, common) if first else []
        else:
            begin = time.perf_counter()
            result = measure(place, common.quiet or not first)
            flags = [*loading_flags(what), *(flag for flag in result.flags if flag not in loading_flags(what))]
            if first:
                with place.staged_results(arrays) as folder:
                    written = write_results(what, result, title, told, common, folder, flags, time.perf_counter() - begin)
                there = [path for pattern in arrays for path in sorted(place.folder.glob(pattern))]
                pngs = [path for path in there if path.suffix == ".png"]
                arrived = [path.name for path in there if path not in pngs] + [PNG_PATTERN] * bool(pngs)
                print_results(what, result, title, place, [*(path.name for path in written), *arrived], common.quiet)
    if first and common.strict and flags:
        print_to_stderr(f"Flags were raised and --strict was given: {len(flags)}")
        raise typer.Exit(1)


def write_results(
    what: Sequence[LoadedSubject], result: Result, title: str, told: Mapping[str, Any], common: CommonOptions, folder: Path,
    flags: Sequence[str],
    seconds: float,
) -> list[Path]:  # fmt: skip
    """Writes everything into the folder; returns the paths."""
    from robench.report.folder import save_measurement
    from robench.report.manifest import new_manifest

    n = int(result.run.ledger.seen.sum())
    words = checkpoint_and_data(what)
    more = {key: value(result) if callable(value) else value for key, value in told.items()}
    words |= more
    words["data"] = {**words["data"], "n": n, **({"chosen": len(result.run.pool)} if n < len(result.run.pool) else {})}
    notes = [*loading_notes(what), *(note for note in result.notes if note not in loading_notes(what))]
    content = new_manifest(what[0].device, common.seed, result.run.spent or seconds, flags, **words, notes=notes)
    return save_measurement(result, folder, title=title.format(n=n), images=what[0].images, manifest=content)


def print_results(
    what: Sequence[LoadedSubject], result: Result, title: str, place: Destination, written: Sequence[str], quiet: bool
) -> None:
    """Prints the tables, the notes and the flags, and says what was written."""
    from robench.report.tables import report_tables

    shown = report_tables(
        result.rows, title=title.format(n=int(result.run.ledger.seen.sum())), most=MOST_LEVELS, reference=stored_reference(place)
    )
    for table in shown:
        print_table(*table)
    for note in result.notes:
        if note not in loading_notes(what) and note not in result.notes_before_run:
            print_message(f"Note: {note}", quiet)
    for flag in result.flags:
        if flag not in loading_flags(what):  # those were told as the models were loaded
            print_to_stderr(f"Flag: {flag}")
    if any(row.metric == "error_rate" for row in result.rows):
        print_message(f"Every level is in rows.csv and report.html; at most {MOST_LEVELS} of a probe are shown here.", quiet)
    print_message(f"Written: {', '.join(written)} in {place.folder}", quiet)


def stored_reference(place: Destination) -> Any:
    """What the manifest says of the model by whose errors others are divided; None without one."""
    from robench.core.folders import manifest_of

    return manifest_of(place.folder).get("corruptions", {}).get("reference") or None


def print_finished_run(what: Sequence[LoadedSubject], place: Destination, title: str, common: CommonOptions) -> list[str]:
    """Prints the tables of a finished run; the flags."""
    from robench.core.folders import manifest_of
    from robench.report.tables import report_tables
    from robench.results.files import read_rows

    rows = read_rows(place.folder)
    n = next((row.n for row in rows if row.metric == "accuracy"), 0)
    for table in report_tables(rows, title=title.format(n=n), most=MOST_LEVELS, reference=stored_reference(place)):
        print_table(*table)
    manifest = manifest_of(place.folder)
    data, until = manifest.get("data", {}), manifest.get("how", {}).get("until")
    if common.budget is not None and data.get("chosen", 0) > data.get("n", 0):
        ended = "The budget is spent" if until is None else f"The run ended at --until {until:g} or with its budget"
        print_message(f"{ended}: a longer one goes on{'' if until is None else ' where it was the budget'}, with --resume", common.quiet)
    return print_finished_notes(place, [*loading_notes(what), *loading_flags(what)], common.quiet)


def manifest_threat(threats: Sequence[Threat]) -> Any:
    """What the manifest says of the threat: norm and eps, or a list of several."""
    norms = list(dict.fromkeys(threat.norm for threat in threats))
    each: list[Any] = []
    for norm in norms:
        radii = sorted(threat.eps for threat in threats if threat.norm == norm)
        each.append({"norm": norm, "eps": radii if len(radii) > 1 else radii[0]})
    return each[0] if len(each) == 1 else each


def manifest_attack_options(attacking: AttackOptions) -> dict[str, Any]:
    """What the manifest says of the way in which attacks ran."""
    return {"engine": attacking.engine, "precision": attacking.precision, "until": attacking.until}


def manifest_audit(job: Job, result: Result) -> dict[str, Any]:
    """What the manifest says of an audit."""
    from robench.results.score_rows import layers_of
    from robench.results.scores import all_subject_scores

    layers = layers_of(all_subject_scores(result.run))
    return {
        **({"layers": layers} if layers else {}),
        "methods": [recipe.title for recipe in job.recipes() if job.is_of_kind(recipe, "method")], "scores": list(job.scores or ()),
        "target": job.target, "channels": job.channels,
        "against": [f"{recipe.title} {recipe.options}" if recipe.options else recipe.title for recipe in job.against],
    }  # fmt: skip


def job_result(
    what: Sequence[LoadedSubject], job: Job, common: CommonOptions, attacking: AttackOptions, threats: Sequence[Threat], size: int,
    place: Destination, *,
    quiet: bool, compiled: bool,
) -> Result:  # fmt: skip
    """What the public function finds."""
    from robench.evaluation import api

    images = what[0].images
    how: dict[str, Any] = {
        "seed": common.seed, "batch_size": size, "device": what[0].device, "budget": common.budget, "folder": place, "resume": place.resume,
        "track": tracker(quiet), "prepare": bool(job.attacks()),
    }  # fmt: skip
    models = [one.run_subject() for one in what]
    if job.command == "saliency":
        return api.saliency(
            models, images, methods=[recipe for recipe in job.recipes() if job.is_of_kind(recipe, "method")], scores=job.scores or (),
            target=int(job.target) if job.target.isdecimal() else job.target, channels=job.channels, against=job.against,
            join=job.join, inductive="inductive" in job.chosen, threats=threats, save=place.work if job.save else None,
            tell=partial(print_notes, quiet=quiet), **how,
        )  # fmt: skip
    return api.evaluate(
        models, images, suite=job.chosen[0] if len(job.chosen) == 1 else job.chosen, threats=threats,
        scores=attacking.score or ("gini",), scale=attacking.scale, photos=attacking.frost_dir, engine=attacking.engine,
        precision=attacking.precision, compiled=attacking.compiled and compiled, until=attacking.until,
        save=place.work / "x_adv.npy" if attacking.save and "attack" in job.kinds() else None,
        made=place.work if attacking.save and job.kinds() != {"attack"} else None, pngs=place.work if attacking.save_png else None,
        examine=job.examine, **how,
    )  # fmt: skip


def print_notes(sentences: Sequence[str], quiet: bool) -> None:
    """Says what is to be known before anything is computed."""
    for sentence in sentences:
        print_message(f"Note: {sentence}", quiet)


def job_words(
    what: Sequence[LoadedSubject], job: Job, common: CommonOptions, attacking: AttackOptions, threats: Sequence[Threat], size: int
) -> dict[str, Any]:
    """What was asked of a run: all that its numbers depend on."""
    from robench.corruptions.frost import photos_digest
    from robench.evaluation.run_words import recipe_words, results_words, score_words, suite_words

    kinds, attacks = job.kinds(), job.attacks()
    words: dict[str, Any] = {"command": job.command, **checkpoint_and_data(what), "seed": common.seed}
    if job.command == "saliency":
        words |= {
            "methods": [recipe_words(recipe) for recipe in job.recipes() if job.is_of_kind(recipe, "method")],
            "against": [recipe_words(recipe) for recipe in job.against], "scores": score_words(job.scores or ()), "target": job.target,
            "channels": job.channels, "join": [results_words(folder) for folder in sorted(job.join)],
            "inductive": "probe" in kinds, "save": job.save,
        }  # fmt: skip
        words |= {"norm": threats[0].norm, "eps": threats[0].eps} if attacks else {}
    elif kinds == {"probe"} and not attacks:
        words["probes"] = [recipe_words(recipe) for recipe in job.recipes()]
        words |= {"save": True} if attacking.save else {}
    else:
        words |= {"suite": suite_words(job.chosen), "save": attacking.save}
        if attacks:
            radii = [threat.eps for threat in threats]
            words |= {"norm": threats[0].norm, "eps": radii} if not attacking.threat else {"threats": list(map(threat_text, threats))}
            told = attacking.engine == "reference" or attacking.until is not None
            words |= {
                "engine": attacking.engine, "precision": attacking.precision, "until": attacking.until,
                "batch_size": size if told else None,
                **({"save_png": True} if attacking.save_png else {}),
            }  # fmt: skip
        words |= {"scores": score_words(attacking.score or ("gini",))} if "method" in kinds else {}
        words |= {"scale": attacking.scale, "frost_dir": photos_digest(str(attacking.frost_dir or ""))} if corruption_names(job) else {}
    return {**words, **({"budget": common.budget} if common.budget is not None else {}), **job.words}


def only_adds_time(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> bool:
    """Whether a run asks for what another did, and for more time."""
    from robench.core.folders import can_go_on_by_budget

    rest = [{key: value for key, value in words.items() if key != "budget"} for words in (theirs, ours)]
    return rest[0] == rest[1] and can_go_on_by_budget(theirs, ours)


def checkpoint_and_data(what: Sequence[LoadedSubject]) -> dict[str, Any]:
    """What the words and the manifest say of the models and the images: one checkpoint, or a list of them."""
    images = what[0].images
    return {
        "checkpoint": checkpoint_words([one.loaded for one in what]),
        "data": {"name": images.name, "split": images.split, "n": len(images), "sha256": images.sha256},
    }


def threat_text(threat: Threat) -> str:
    """A threat as the command line spells it."""
    return f"{threat.norm}:{eps_text(threat.eps)}"


def subjects_text(what: Sequence[LoadedSubject]) -> str:
    """The models in a title: the name of one, how many of several."""
    return what[0].loaded.name if len(what) == 1 else f"{len(what)} models"


def run_title(what: Sequence[LoadedSubject], job: Job, common: CommonOptions, threats: Sequence[Threat]) -> str:
    """The title of tables and pictures: what, the models, the images, the threat, the seed."""
    images = f"{what[0].images.name} {what[0].images.split}, n = {{n}}"
    norms = dict.fromkeys(threat.norm for threat in threats)
    threat = "; ".join(f"{norm} eps = {', '.join(eps_text(one.eps) for one in threats if one.norm == norm)}" for norm in norms)
    told = f", {threat}" if job.attacks() and job.command != "saliency" else ""
    first = f"{job.title} of " if job.command != "saliency" else ""
    return f"{first}{subjects_text(what)} on {images}{told}, seed {common.seed}"


@contextmanager
def run_place(
    out: Path | None, model: str, what: str, words: dict[str, Any], *, resume: bool = False, force: bool = False, adds: Adds | None = None
) -> Iterator[Destination]:
    """The place of a run: the user's folder, or a new one, results/<time>-<model>-<what>; see `destinations.claimed`.

    Where a run with a state is interrupted, says how it goes on and ends with exit code 130.
    """
    from robench.core.folders import claim_destination, make_numbered_folder, never_adds

    for name, given in (("resume", resume), ("force", force)):
        if given and out is None:
            raise InputError(f"which run is --{name} to {'go on with' if name == 'resume' else 'replace'}? Pass its folder with --out")
    folder = out or make_numbered_folder(Path("results") / f"{time.strftime('%Y%m%d-%H%M%S')}-{file_stem(model)}-{file_stem(what)}")
    with claim_destination(folder, words, resume=resume, force=force, adds=adds or never_adds) as place:
        try:
            yield place
        except KeyboardInterrupt:
            if not place.has_begun or place.finished:
                raise
            print_to_stderr(f"Interrupted: go on with the same words and {'--force ' if place.replaces else ''}--resume --out {folder}")
            raise typer.Exit(130) from None


def shared_place(world: World, stack: ExitStack, claim: Callable[[], AbstractContextManager[Destination]]) -> Destination:
    """The place that the first process claims, on all processes; where it is refused, the others end without a word."""
    place, refusal = None, None
    if world.rank == 0:
        try:
            place = stack.enter_context(claim())
        except InputError as error:
            refusal = error
    place, refusal = world.first_of((place, refusal))
    if place is None:
        raise refusal if refusal and world.rank == 0 else typer.Exit(2)
    return place


def print_finished_notes(place: Destination, known: Sequence[str], quiet: bool) -> list[str]:
    """Says the notes and flags of a finished run, but for those that are known, and that nothing was changed; the flags."""
    from robench.core.folders import manifest_of

    manifest = manifest_of(place.folder)
    flags = [str(flag) for flag in manifest.get("flags", [])]
    for note in manifest.get("notes", []):
        print_message(f"Note: {note}", quiet or note in known)
    for flag in flags:
        if flag not in known:  # those were told as the model was loaded
            print_to_stderr(f"Flag: {flag}")
    names = ", ".join(name for name in manifest["files"] if name != "manifest.json")
    print_message(f"This run is finished, and nothing was changed: {names} in {place.folder}", quiet)
    return flags


def compiler_notes() -> list[str]:
    """Why the attacks' arithmetic is not compiled, as a note; none where it can be."""
    from robench.attacks.kernels import compile_failure

    why = compile_failure()
    return [f"{why}: the attacks run without it"] if why else []


def refuse_several_processes(what: str) -> None:
    """InputError where `torchrun` started several processes for something that one process does."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise InputError(f"{what} runs in one process: leave torchrun out")
