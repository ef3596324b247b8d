"""What a run found, in tables: the rows, what became of each image, the flags and notes. Every measuring function returns a Measurement."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from torch import Tensor

from robench.core.errors import InputError
from robench.core.inputs import Radius, as_radius
from robench.core.recipes import did_you_mean, eps_text
from robench.core.rows import CLEAN, OUTPUTS_METRIC, WORST_NORM, Check, Row, Sample
from robench.results import cascade as cascades
from robench.results import corruptions, probes, score_rows, scores, sequences
from robench.results.classes import Confusion, all_verdicts, class_rows, verdict_confusions
from robench.results.corruption_errors import Reference, reference_warning
from robench.results.image_identities import IMAGES_TABLE, identity_columns
from robench.runs.diagnostics import near_chance_check
from robench.runs.execution import FinishedRun
from robench.runs.types import Case, Stage

SampleTable = Sequence[Any] | Mapping[str, Sequence[Any]]  # lines of one dataclass, or columns by name
SAMPLE_TABLE_KINDS = ("attack", "method", "probe", "corruption", "sequence")  # whose per-image table is samples.csv: the first that was run


@dataclass(frozen=True, eq=False)
class Measurement:
    """The result of a measuring function.

    Attributes:
        rows: measurements; the checks of attacks are among them, as metric flag/NAME where raised and check/NAME where not.
        tables: what became of each image, by the name of the file: samples, and samples-probes and the like where there are several; and
            confusion, how often images of each class were given each label.
        checks_by_model: the diagnostics as (model, check), raised or not.
        notes: sentences on what was done otherwise than asked.
        suite: the name of the suite, "" where recipes were given.
        run: the run that the rows follow from.
        reference: the model by whose errors under corruptions others are divided; None without one.
    """

    rows: list[Row]
    tables: dict[str, SampleTable]
    checks_by_model: list[tuple[str, Check]]
    notes: list[str]
    suite: str
    run: FinishedRun
    reference: Reference | None = None

    @property
    def samples(self) -> Any:
        """What became of each image, in the first table."""
        return self.tables.get("samples", [])

    @property
    def confusions(self) -> list[Confusion]:
        """How often images of each class were given each label, before and after attacks."""
        return list(self.tables.get("confusion", ()))

    @property
    def checks(self) -> list[Check]:
        """The diagnostics of all models, raised or not."""
        return [check for _, check in self.checks_by_model]

    @property
    def flags(self) -> list[str]:
        """A sentence for each raised flag, with the model where there are several."""
        several = len(self.run.cases) > 1
        sentences = [
            (f"{model}: " if several else "") + f"{check.probe}: {check.sentence}" for model, check in self.checks_by_model if check.raised
        ]
        return list(dict.fromkeys(sentences))

    @property
    def examples(self) -> list[tuple[int, Sample, Tensor]]:
        """Some adversarial images of the first cascade, as (place among the images, line of samples, x_adv)."""
        some = cascades.run_cascades(self.run)
        return cascades.examples_of(some[0], cascades.cascade_samples(some[0])) if some else []

    def accuracy(self, probe: str, eps: Radius | None = None, *, norm: str | None = None) -> float:
        """The accuracy of the first model after a probe, a fraction.

        Args:
            probe: "clean", an attack or the suite.
            eps: radius of the threat, a number or text such as 8/255; the smallest radius if not given.
            norm: linf, l2 or l1, or worst for what is left under all threats; may be left out where the probe was run in one norm.

        Raises:
            InputError: for a probe, a norm or a radius that was not run, and where the probe has several accuracies.
        """
        first = self.rows[0].checkpoint if self.rows else ""
        mine = [row for row in self.rows if row.metric == "accuracy" and row.checkpoint == first]
        rows = [row for row in mine if row.probe == probe]
        if not rows:
            raise InputError(f"nothing here is called {probe!r}{did_you_mean(probe, dict.fromkeys(row.probe for row in mine))}")
        by_radius = accuracies_by_radius(rows, probe, norm)
        radius = min(by_radius) if eps is None else min(by_radius, key=lambda known: abs(known - as_radius(eps)))
        if eps is not None and abs(radius - as_radius(eps)) > 1e-9:
            raise InputError(f"{probe!r} was not run at eps {eps}: choose one of {', '.join(map(eps_text, by_radius))}")
        return by_radius[radius]


def accuracies_by_radius(rows: Sequence[Row], probe: str, norm: str | None) -> dict[float, float]:
    """The accuracies of a probe by radius in a norm, or in its only one. InputError where there is none, or more than one at a radius."""
    norms = list(dict.fromkeys(row.norm for row in rows))
    each = [one for one in norms if one != WORST_NORM]
    if norm is None and len(each) != 1:
        raise InputError(f"{probe!r} has accuracies in several norms: say which with norm=, one of {', '.join(norms)}")
    if norm is not None and norm not in norms:
        raise InputError(f"{probe!r} was not run in the norm {norm!r}: it has {', '.join(one or 'no norm' for one in norms)}")
    mine = [row for row in rows if row.norm == (each[0] if norm is None else norm)]
    by_radius = {row.eps: row.value for row in mine}
    if len(by_radius) < len(mine):
        raise InputError(f"{probe!r} has {len(mine)} accuracies, which differ in their setting: choose one from to_frame()")
    return by_radius


def measurement_of_run(run: FinishedRun, suite: str = "", reference: Reference | Case | None = None) -> Measurement:
    """The tables of a run.

    Args:
        run: a run that has come to its end.
        suite: the name of a suite whose verdict gets rows of its own, "" for none.
        reference: by whose errors under corruptions others are divided: known errors, or the case of a model that was measured along.
    """
    cells = run.stages_of_kind("corruption")
    cases = [case for case in run.cases if case is not reference]
    known_reference = corruptions.subject_reference(run, reference, cells) if isinstance(reference, Case) else reference
    rows: list[Row] = []
    for rows_of_kind in (attack_rows, method_rows, probe_rows):
        rows += rows_of_kind(run, suite, clean_known=bool(rows))
    some = [row for case in cases for row in corruptions.corruption_rows(run, case, cells, known_reference)]
    rows += [row for row in some if row.probe != CLEAN or row.metric != "accuracy"] if rows else some
    if stages := run.stages_of_kind("sequence"):
        beside = reference if isinstance(reference, Case) else None
        rows += [row for case in cases for row in sequences.sequence_rows(run, case, stages, beside)]
    checks = checks_of(run)
    if has_cascades(run):
        n = int(run.ledger.seen.sum())
        rows += [row for case in cases for check, base in checks_with_rows(run, case) for row in cascades.check_rows([check], base, n)]
    rows += [replace(about, metric=f"flag/{check.name}", value=check.value) for _, about, check in probe_flags(run)]
    rows += [row for case in cases for row in output_rows(case, int(run.ledger.seen.sum()))]
    verdicts = list(all_verdicts(run, cases, suite, rows))
    rows += [row for verdict in verdicts for row in class_rows(verdict)]
    confusions = [cell for verdict in verdicts for cell in verdict_confusions(verdict)]
    tables = {**tables_of(run, cases), **({"confusion": confusions} if confusions else {})}
    notes = [*(note for case in cases for note in subject_notes(run, case)), *run.notes, *reference_notes(rows, known_reference)]
    notes += sequences.steady_reference_note(rows)
    return Measurement(rows, tables, checks, list(dict.fromkeys(notes)), suite, run, known_reference)


def output_rows(case: Case, n: int) -> list[Row]:
    """How many outputs of a model compete, where that is not all of them."""
    chosen = case.subject.architecture.get("outputs")
    if not isinstance(chosen, Mapping):
        return []
    return [replace(case.subject.about, n=n, seed=case.seed, probe=CLEAN, metric=OUTPUTS_METRIC, value=float(chosen["chosen"]))]


def has_cascades(run: FinishedRun) -> bool:
    """Whether there are cascades: of attacks, or of the clean pass alone."""
    return bool(run.stages_of_kind("attack")) or all(stage.kind == "clean" for stage in run.stages)


def attack_base_row(run: FinishedRun, case: Case) -> Row:
    """The columns that the rows of a subject under attacks share: with the run's first threat.

    Args:
        run: the run.
        case: the subject.
    """
    threat = next((stage.threat for stage in run.stages_of_kind("attack") if stage.threat), None)
    norm, eps = (threat.norm, threat.eps) if threat else ("", 0.0)
    return replace(case.subject.about, seed=case.seed, norm=norm, eps=eps)


def attack_rows(run: FinishedRun, suite: str, clean_known: bool) -> list[Row]:  # noqa: ARG001
    """The clean accuracy, the rows of all cascades, each after the accuracy with which it begins, and the worst of several threats."""
    rows: list[Row] = []
    for case in run.cases:
        mine, base = [one for one in cascades.run_cascades(run) if one.case is case], attack_base_row(run, case)
        if mine:
            start = cascades.cascade_of(case, run.ledger, run.stages_of_kind("clean"))
            rows += cascades.cascade_stage_rows(start, 0, replace(base, n=start.n), run.interval)
        done_sources = list[Stage]()
        for one in mine:
            some = [stage for stage in unreported_sources(run, "attack") if stage is one.stages[0] and stage not in done_sources]
            rows += [cascades.source_row(case, run.ledger, stage, base, run.interval) for stage in some]
            done_sources += some
            rows += [row for row in cascades.cascade_rows(one, base, suite, run.interval) if row.probe != CLEAN]
        rows += cascades.worst_rows(mine, base, suite, run.interval)
    return rows


def unreported_sources(run: FinishedRun, kind: str) -> list[Stage]:
    """The stages that give their images to those of a kind, and have no accuracy of their own in the rows."""
    reported = [stage for stage in run.stages if stage.is_reported]
    sources = dict.fromkeys(stage.source for stage in run.stages_of_kind(kind) if stage.source is not None)
    return [stage for stage in sources if not any(makes_same_images(stage, other) for other in reported)]


def makes_same_images(source: Stage, other: Stage) -> bool:
    """Whether a stage with an accuracy in the rows, an attack or a corruption, makes the images that another only gives to others."""
    if source.kind != other.kind or source.kind == "probe":
        return False
    if source.kind != "corruption":
        return source.key.removeprefix("images of ") == other.key
    cells = [(stage.about["corruption"], stage.about["severity"]) for stage in (source, other)]
    return cells[0] == cells[1] and given_options(source).items() <= given_options(other).items()


def given_options(stage: Stage) -> dict[str, Any]:
    """The options that a corruption was given, but for a scale that follows from the size of the images."""
    recipe = stage.about.get("recipe")
    return {} if recipe is None else {key: value for key, value in recipe.options.items() if value not in ("", "auto")}


def method_rows(run: FinishedRun, suite: str, clean_known: bool) -> list[Row]:  # noqa: ARG001
    """The rows of saliency maps; the clean accuracy only where no other rows have it."""
    if not run.stages_of_kind("method"):
        return []
    rows = [row for subject in scores.all_subject_scores(run) for row in score_rows.subject_score_rows(subject)]
    return [row for row in rows if not (clean_known and row.probe == CLEAN and row.metric == "accuracy")]


def probe_rows(run: FinishedRun, suite: str, clean_known: bool) -> list[Row]:  # noqa: ARG001
    """The rows of probes; the clean accuracy only where no other rows have it."""
    stages, rows = run.stages_of_kind("probe"), list[Row]()
    for case in run.cases if stages else ():
        rows += [] if clean_known else [probes.clean_row(run, case, run.stages_of_kind("clean")[0])]
        some = [source for source in unreported_sources(run, "probe") if source not in unreported_sources(run, "attack")]
        rows += [cascades.source_row(case, run.ledger, source, attack_base_row(run, case), run.interval) for source in some]
        rows += [row for stage in stages for row in probes.probe_stage_rows(run, case, stage)]
    return rows


def probe_flags(run: FinishedRun) -> list[tuple[Case, Row, Check]]:
    """What probes warned of."""
    return [
        (case, about, check)
        for case in run.cases
        for stage in run.stages_of_kind("probe")
        for about, check in probes.probe_warnings(run, case, stage)
    ]


def checks_of(run: FinishedRun) -> list[tuple[str, Check]]:
    """The checks of every subject: those of the model itself, of its cascades, its probes and its maps."""
    checks = list[tuple[str, Check]]()
    for case in run.cases:
        mine = [check for check, _ in checks_with_rows(run, case)]
        more = [] if has_cascades(run) else raised_chance_checks(run, case)
        more += [check for other, _, check in probe_flags(run) if other is case]
        checks += [(case.name, check) for check in [*mine, *dict.fromkeys(more)]]
    return checks


def checks_with_rows(run: FinishedRun, case: Case) -> list[tuple[Check, Row]]:
    """The checks of a subject with the columns of their rows: the model's own with the first threat, others with that of their attacks."""
    base = attack_base_row(run, case)
    checks = [(check, base) for check in case.checks] if has_cascades(run) else []
    for one in cascades.run_cascades(run):
        if one.case is case:
            mine = replace(base, norm=one.norm, eps=min(one.radii(), default=0.0))
            earlier_checks = [check for check, _ in checks]
            checks += [
                (check, mine) for check in cascades.cascade_checks(one) if check.name != "near_chance" or check not in earlier_checks
            ]
    for stage in run.stages:
        if not stage.is_reported:
            norm, eps = cascades.threat_before(stage)
            source_checks = dict.fromkeys(cascades.source_checks(run.ledger, case.name, stage))
            checks += [(check, replace(base, norm=norm, eps=eps)) for check in source_checks]
    return checks


def reference_notes(rows: Sequence[Row], reference: Reference | None) -> list[str]:
    """What keeps the numbers that are divided by a reference's from being there, or from saying much."""
    if reference is None:
        return []
    notes = [] if any(row.metric == "mce" for row in rows) else [
        "there is no mCE: it needs all fifteen corruptions at all five severities, of the model and of the reference"
    ]  # fmt: skip
    warning = reference_warning(reference, list(dict.fromkeys(row.probe for row in rows if row.metric == "relative_ce")))
    return [*notes, *([warning] if warning else [])]


def raised_chance_checks(run: FinishedRun, case: Case) -> list[Check]:
    """The check of a clean accuracy that is that of a guess, where it is raised."""
    clean, seen = run.stages_of_kind("clean"), run.ledger.seen
    checks = [near_chance_check(int((run.ledger.right(case.name, stage) & seen).sum()), int(seen.sum()), case.classes) for stage in clean]
    return [check for check in checks if check.raised]


def subject_notes(run: FinishedRun, case: Case) -> list[str]:
    """What was done otherwise than asked for one subject, with its name where there are several."""
    notes = list(case.notes)
    if run.stages_of_kind("method"):
        notes = scores.subject_scores(run, case).notes
    return notes if len(run.cases) == 1 else [f"{case.name}: {note}" for note in notes]


def tables_of(run: FinishedRun, cases: Sequence[Case]) -> dict[str, SampleTable]:
    """What became of each image, a table for each kind of stage; the first is called samples."""
    tables: dict[str, SampleTable] = {}
    if has_cascades(run):
        tables["attack"] = samples_of_cascades(run)
    if run.stages_of_kind("method"):
        tables["method"] = score_rows.score_columns(scores.all_subject_scores(run))
    if stages := run.stages_of_kind("probe"):
        clean = run.stages_of_kind("clean")[0]
        tables["probe"] = [line for case in cases for line in probes.probe_samples(run, case, clean, stages)]
    if cells := run.stages_of_kind("corruption"):
        tables["corruption"] = corruptions.corruption_columns(run, cases, cells)
    if moving := run.stages_of_kind("sequence"):
        tables["sequence"] = sequences.sequence_samples(run, cases, moving)
    pairs = [(kind, tables[kind]) for kind in SAMPLE_TABLE_KINDS if kind in tables]
    named = {("samples" if not place else f"samples-{kind}s"): table for place, (kind, table) in enumerate(pairs)}
    identities = identity_columns(run)
    return {**named, IMAGES_TABLE: identities} if identities else named


def samples_of_cascades(run: FinishedRun) -> SampleTable:
    """The per-image table of cascades: lines, or, where there are several subjects or cascades, columns that say which."""
    some = cascades.run_cascades(run)
    if len(some) == 1 and some[0].stages[0].kind == "clean":
        return cascades.cascade_samples(some[0])
    names = ["checkpoint", "norm", "images", *(part.name for part in fields(Sample))]
    table: dict[str, list[Any]] = {name: [] for name in names}
    for one in some:
        for line in cascades.cascade_samples(one):
            values = {"checkpoint": one.case.subject.name, "norm": one.norm, "images": one.images, **asdict(line)}
            for name in names:
                table[name].append(values[name])
    return table
