"""What `robench saliency` does: audit each model, join the audits with attacks, write tables, pictures and a page."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robench.cli.console import Table, complain, message, show, tracker
from robench.cli.drawing import audit_pictures, page_parts, probe_pictures
from robench.cli.labels import chance_flags, refuse_other_orders, surrogates
from robench.cli.measuring import (
    BATCH_SIZE,
    Subject,
    about,
    alone,
    described,
    destined,
    flags_of,
    image_words,
    notes_of,
    quickest_batch,
    recipe_words,
    stem,
    subject_words,
    told_again,
)  # fmt: skip
from robench.cli.probing import MOST, probed
from robench.cli.probing import tables as error_tables
from robench.errors import InputError
from robench.recipes import Recipe

if TYPE_CHECKING:
    from robench.altered import Altered, Scene
    from robench.auditing import Audit
    from robench.destinations import Place
    from robench.probing import Probing
    from robench.report.compare import Results
    from robench.rows import Row


@dataclass(frozen=True)
class Wanted:
    """What the user asked of an audit."""

    methods: Sequence[Recipe]
    scores: Sequence[str]
    target: str
    channels: str
    against: Sequence[Recipe]
    join: Sequence[Path]
    inductive: bool
    seed: int
    batch_size: int | None
    save: bool
    quiet: bool
    resume: bool = False
    force: bool = False


def refuse_idle_radius(against: Sequence[Recipe], norm: str | None, eps: float | None) -> None:
    """InputError where a threat is given and no attack would use it."""
    if not attacks_among(against) and (norm is not None or eps is not None):
        raise InputError("--norm and --eps belong to an attack: name one with --against, such as --against pgd-20, or leave them out")


def attacks_among(against: Sequence[Recipe]) -> list[Recipe]:
    """The recipes that have a radius: neither corruptions nor probes."""
    from robench.corruptions import CORRUPTIONS
    from robench.suites import is_probe

    return [recipe for recipe in against if recipe.name not in CORRUPTIONS and not is_probe(recipe)]


def one_threat(what: Sequence[Subject], against: Sequence[Recipe]) -> None:
    """InputError where an attack would meet the models with different threats, those of their training: side by side, that misleads."""
    attacks = attacks_among(against)
    if attacks and len({(one.norm, one.radii) for one in what}) > 1:
        raise InputError(
            f"the models were trained for different threats: pass --norm and --eps, so that {attacks[0].label} is the same for all"
        )


def run_audit(what: Sequence[Subject], wanted: Wanted, out: Path | None) -> None:
    """Audits the models, writes everything into a folder, prints the tables and the notes."""
    from robench.auditing import beforehand, chosen_scores
    from robench.findings import rows_of

    alone("an audit of saliency maps")
    one_threat(what, wanted.against)
    refuse_other_orders(what[0].images.classes, surrogates(wanted.against), what[0].classes, "surrogate")
    begin, images = time.perf_counter(), what[0].images
    name = f"{subject_words(what)} on {image_words(what[0])}, seed {wanted.seed}"
    with destined(out, subject_words(what), "saliency", words_of(what, wanted), resume=wanted.resume, force=wanted.force) as place:
        if place.finished:
            show_again(what, wanted, place, name)
            return
        with place.results() as folder:
            scores, early = chosen_scores(wanted.scores, images.masks is not None, images.shape[1:])
            early += beforehand(wanted.methods, scores, images.x)
            for note in early:
                message(f"Note: {note}", wanted.quiet)
            scenes = [scene(one, wanted) for one in what]
            earlier = [joined(results, its) for results, its in zip(matched(what, wanted.join), scenes, strict=True)]
            try_out(what, wanted, scores, scenes, earlier)
            audits = [audited(one, wanted, scores, its, changes, folder) for one, its, changes in zip(what, scenes, earlier, strict=True)]
            probing = inductive(what, wanted) if wanted.inductive else None
            rows = [row for audit in audits for row in rows_of(audit)] + (
                [row for row in probing.rows if row.probe != "clean"] if probing else []
            )
            late = [note if len(what) == 1 else f"{audit.about.checkpoint}: {note}" for audit in audits for note in audit.notes]
            shown = [*score_tables(rows, wanted, name), *(error_tables(probing.rows) if probing else [])]
            written = write(what, audits, probing, rows, shown, early + late, name, folder, wanted, time.perf_counter() - begin)
    for table in [*score_tables(rows, wanted, name), *(error_tables(probing.rows, MOST) if probing else [])]:
        show(*table)
    for note in late:
        message(f"Note: {note}", wanted.quiet)
    for flag in raised(what, audits, probing):
        if flag not in flags_of(what):  # those were told as the models were loaded
            complain(f"Flag: {flag}")
    message(f"Written: {', '.join(path.name for path in written)} in {place.folder}", wanted.quiet)


def words_of(what: Sequence[Subject], wanted: Wanted) -> dict[str, Any]:
    """What was asked of an audit: all that its numbers depend on."""
    recipes = {"methods": wanted.methods, "against": wanted.against}
    return {
        "command": "saliency", **described(what), **{key: [recipe_words(recipe) for recipe in its] for key, its in recipes.items()},
        "scores": list(wanted.scores), "target": wanted.target, "channels": wanted.channels,
        "join": [results_words(folder) for folder in sorted(wanted.join)],
        "inductive": wanted.inductive, "seed": wanted.seed, "save": wanted.save,
        **({"norm": what[0].norm, "eps": what[0].radii[0]} if wanted.against else {}),
    }  # fmt: skip


def results_words(folder: Path) -> dict[str, str]:
    """What identifies earlier results: their folder, and the content of what an audit reads there."""
    from robench.models.identity import digest_of

    return {"path": str(folder), **{name: digest_of(folder / name) for name in ("manifest.json", "rows.csv", "samples.csv")}}


def show_again(what: Sequence[Subject], wanted: Wanted, place: Place, name: str) -> None:
    """Prints the tables of a finished audit."""
    from robench.report import read_rows

    rows = read_rows(place.folder)
    probes = error_tables(rows, MOST) if wanted.inductive else []
    for table in [*score_tables(rows, wanted, name), *probes]:
        show(*table)
    told_again(place, [*notes_of(what), *flags_of(what)], wanted.quiet)


def guesses(what: Sequence[Subject], audits: Sequence[Audit]) -> list[str]:
    """The flags of models whose clean accuracy is that of a guess."""
    shares = [float((one.pred == one.y).double().mean()) for one in audits]
    clean = [
        replace(one.about, probe="clean", metric="accuracy", value=share, n=len(one.y)) for one, share in zip(audits, shares, strict=True)
    ]
    return chance_flags(clean, len(what[0].images.classes))


def raised(what: Sequence[Subject], audits: Sequence[Audit], probing: Probing | None) -> list[str]:
    """Every raised flag of the models, the audits and the probes, each sentence once."""
    return list(
        dict.fromkeys(
            [
                *flags_of(what),
                *guesses(what, audits),
                *(flag for audit in audits for flag in audit.flags),
                *(probing.flags if probing else []),
            ]
        )
    )


def matched(what: Sequence[Subject], folders: Sequence[Path]) -> list[list[Results]]:
    """The earlier results of each model; InputError for a folder whose model is not among them, or of which the data are others."""
    from robench.report.compare import load, told

    found: list[list[Results]] = [[] for _ in what]
    for folder in folders:
        results = load(folder)
        digest = told(results.manifest, "checkpoint.sha256")
        places = [place for place, one in enumerate(what) if one.loaded.sha256 == digest]
        if not places:
            raise InputError(f"{folder} holds results of {results.checkpoint}, with other weights than any model named here")
        if told(results.manifest, "data.name") != what[0].images.name:
            raise InputError(f"{folder} holds results on {told(results.manifest, 'data.name')}, not on {what[0].images.name}")
        found[places[0]].append(results)
    return found


def joined(results: Sequence[Results], what: Scene) -> list[Altered]:
    """What earlier runs say of the images."""
    from robench.altered import of_results

    return [of_results(one, what) for one in results]


def try_out(
    what: Sequence[Subject], wanted: Wanted, scores: Sequence[Recipe], scenes: Sequence[Scene], earlier: Sequence[Sequence[Altered]]
) -> None:
    """Tries each model with each method, score, attack and probe on two images: what is refused is refused before anything is computed."""
    from robench import altered, auditing, probing
    from robench.suites import recipes

    probes = probing.resolved(recipes("inductive")) if wanted.inductive else []
    for one, its, changes in zip(what, scenes, earlier, strict=True):
        refuse_twins([*map(altered.name_of, wanted.against), *(change.name for change in changes)])
        images, model = one.images, one.loaded.model
        auditing.try_out(
            model, images.x, images.y, methods=wanted.methods, scores=scores, target=target_of(wanted.target), channels=wanted.channels,
            ids=images.ids, masks=images.masks, seed=wanted.seed, batch_size=its.batch_size, device=one.device,
        )  # fmt: skip
        probing.try_out(model, images.x, images.y, images.ids, probes, wanted.seed, one.device)
        if len(what) * len(wanted.against) > 1:  # a single one is refused by itself before anything else is computed
            altered.try_out(wanted.against, its)


def audited(one: Subject, wanted: Wanted, scores: Sequence[Recipe], what: Scene, earlier: Sequence[Altered], folder: Path) -> Audit:
    """The audit of one model, with what earlier runs found."""
    from robench.altered import altered
    from robench.auditing import audit

    images, model = one.images, one.loaded.model
    changes = [*(altered(recipe, what) for recipe in wanted.against), *earlier]

    def file(method: str) -> Path | None:
        return folder / f"maps-{stem(one.loaded.name)}-{stem(method)}.npy" if wanted.save else None

    return audit(
        model, images.x, images.y, methods=wanted.methods, scores=scores, target=target_of(wanted.target), channels=wanted.channels,
        ids=images.ids, masks=images.masks, altered=changes, seed=wanted.seed, batch_size=what.batch_size, device=one.device,
        about=about(one), save=file, track=tracker(wanted.quiet),
    )  # fmt: skip


def scene(one: Subject, wanted: Wanted) -> Scene:
    """The model with its images, as attacks and probes are to see it."""
    from robench.altered import Scene

    batch_size = quickest_batch(one) if wanted.batch_size == 0 else wanted.batch_size or BATCH_SIZE
    images, progress = one.images, tracker(wanted.quiet)
    return Scene(one.loaded.model, images.x, images.y, images.ids, one.norm, one.radii[0], wanted.seed, batch_size, one.device, progress)


def refuse_twins(names: Sequence[str]) -> None:
    """InputError where two changes have one name, so that their rows could not be told apart."""
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"{name!r} is asked for twice with --against or --join: rows could not be told apart")


def target_of(text: str) -> str | int:
    """The number of a class, or the word."""
    return int(text) if text.isdecimal() else text


def inductive(what: Sequence[Subject], wanted: Wanted) -> Probing:
    """The suite of probes on the models."""
    from robench.suites import recipes

    return probed(what, recipes("inductive"), quiet=wanted.quiet, seed=wanted.seed, batch_size=wanted.batch_size)


def score_tables(rows: Sequence[Row], wanted: Wanted, title: str) -> list[Table]:
    """The tables of an audit, models side by side: the Gini and the other scores, means over images; the Gini beside margin and fate."""
    names = list(dict.fromkeys(row.checkpoint for row in rows))
    how = f"target {wanted.target}, channels {wanted.channels}"
    first = Table(f"saliency audit of {title}: Gini, mean over images (95 % bootstrap interval), {how}", ("method", *names), [])
    first.lines.append(("clean accuracy %", *(f"{100 * row.value:.2f}, n = {row.n}" for row in rows if row.metric == "accuracy")))
    first.lines.extend((method, *cells) for method, _, *cells in pivot(rows, names, lambda row: row.metric == "gini"))
    second = Table(f"other scores, means over images, {how}", ("method", "score", *names), [], 2)
    second.lines.extend(pivot(rows, names, other, brief=True))
    third = Table("Gini beside the margin and the images that fall", ("method", "what", *names), [], 2)
    third.lines.extend(pivot(rows, names, lambda row: row.metric in FATE))
    return [table for table in (first, second, third) if table.lines]


ASIDE = ("gini", "accuracy", "seconds", "error_rate", "error_rate_shared", "changed_share", "forwards", "backwards")
FATE = tuple(f"gini/{what}" for what in ("margin_correlation", "fallen", "standing", "difference", "superiority", "shift"))


def other(row: Row) -> bool:
    """Whether a row is the mean of a score that is not the Gini, or tells of maps that were left out."""
    return "/" not in row.metric and row.metric not in ASIDE and not (row.metric.endswith("_maps") and row.value == 0)


def pivot(rows: Sequence[Row], names: Sequence[str], wanted: Callable[[Row], bool], brief: bool = False) -> Iterable[tuple[str, ...]]:
    """One line for each method, kind of images and metric that is wanted, with a cell for each model.

    Brief cells have no interval.
    """
    found: dict[tuple[str, str], dict[str, Row]] = {}
    for row in rows:
        if wanted(row):
            found.setdefault((method_of(row), row.metric.removeprefix("gini/")), {})[row.checkpoint] = row
    for (method, metric), by_name in found.items():
        yield method, metric, *(number_of(by_name.get(name), brief) for name in names)


def method_of(row: Row) -> str:
    """The method of a row, with the kind of images that it speaks of and what they are set against, where these are not the clean ones."""
    words = dict(word.partition("=")[::2] for word in row.setting.split())
    on = f" on {words['images']}" if words.get("images", "clean") != "clean" else ""
    return f"{row.probe}{on}" + (f", {words['against']}" if "against" in words else "")


def number_of(row: Row | None, brief: bool) -> str:
    """A value with its n and, unless in brief, its interval. A dash where there is no value."""
    if row is None or math.isnan(row.value):
        return "-"
    if row.metric.endswith("_maps"):
        return f"{row.value:.0f} of {row.n}"
    value = f"{row.value:.4g}"
    span = "" if brief or math.isnan(row.low) else f" ({row.low:.4g} - {row.high:.4g})"
    return f"{value}{span}, n = {row.n}"


def write(
    what: Sequence[Subject], audits: Sequence[Audit], probing: Probing | None, rows: Sequence[Row], shown: Sequence[Table],
    notes: Sequence[str], name: str, folder: Path, wanted: Wanted, seconds: float,
) -> list[Path]:  # fmt: skip
    """Writes rows, the per-sample table, the manifest, the pictures and the page; returns the paths."""
    from robench.auditing import columns, layers_of
    from robench.report import save
    from robench.report.manifest import manifest
    from robench.report.page import page

    told, flags = how(wanted, what, layers_of(audits)), raised(what, audits, probing)
    content = manifest(what[0].device, wanted.seed, seconds, flags, **described(what), **told, notes=[*notes_of(what), *notes])
    written = save(folder, rows, columns(audits), content)
    written += audit_pictures(audits, what[0].images, name, folder)
    written += probe_pictures(probing, name, folder) if probing else []
    written.append(page(folder / "report.html", f"Saliency audit of {name}", page_parts(shown, written, [*notes_of(what), *notes])))
    return [*written, *(sorted(folder.glob("maps-*.npy")) if wanted.save else [])]


def how(wanted: Wanted, what: Sequence[Subject], layers: dict[str, dict[str, str]]) -> dict[str, Any]:
    """What the manifest says of the audit; `layers` are those that were looked at, by model and method."""
    threat = {"norm": what[0].norm, "eps": what[0].radii[0]}
    words: dict[str, Any] = {
        "methods": [m.label for m in wanted.methods],
        "scores": list(wanted.scores),
        "target": wanted.target,
        "channels": wanted.channels,
    }
    words |= {"layers": layers} if layers else {}
    words["against"] = [f"{recipe.label} {recipe.options}" if recipe.options else recipe.label for recipe in wanted.against]
    return {"audit": words, "threat": threat if wanted.against else {}}
