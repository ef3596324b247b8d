"""From rows to the tables that people read: one line a probe, level or method, models side by side. All of it follows from the rows alone.

Rows of one run may be of several kinds: attacks, methods (saliency maps), probes, corruptions; each kind has tables of its own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from robench.core.recipes import eps_text
from robench.core.rows import CLASS_METRICS, CLEAN, OUTPUTS_METRIC, OVERALL_PROBE, SOURCE_ROLE, WORST_NORM, Row, setting_dict

TABLE_KINDS = ("attack", "method", "probe", "corruption", "sequence")  # in the order of their tables
SPACE = "\N{NO-BREAK SPACE}"
OF_PROBES, OF_CORRUPTIONS = ("error_rate", "changed_share"), ("mean_accuracy", "mean_error", "mean_corruption_error")
OF_SEQUENCES = ("flip_probability", "mean_flip_probability")
FLIP_METRICS, DISTANCE_METRICS = (*OF_SEQUENCES, "flip_rate", "mfr"), ("top5_distance", "mean_top5_distance", "mt5d")
COSTS = {"seconds": ".1f", "forwards": ",.0f", "backwards": ",.0f"}  # and how they are written
ASIDE = ("gini", "accuracy", "seconds")
FATE = tuple(f"gini/{what}" for what in ("margin_correlation", "fallen", "standing", "difference", "superiority", "shift"))


class TextTable(NamedTuple):
    """A table with its title.

    Attributes:
        title: what the table shows.
        columns: the titles of the columns.
        lines: the cells as texts, line by line.
        word_columns: how many of the first columns hold words; the others hold numbers.
    """

    title: str
    columns: Sequence[str]
    lines: list[tuple[str, ...]]
    word_columns: int = 1


def report_tables(
    rows: Sequence[Row], *, title: str, reference: Mapping[str, Any] | None = None, most: int | None = None
) -> list[TextTable]:
    """The tables of all kinds of rows.

    Args:
        rows: the rows of one run.
        title: of the run: models, images, seed, and for attacks the threat.
        reference: what the manifest says of the model by whose errors others are divided; None without one.
        most: show so many levels of a probe at most, evenly chosen; all of them if not given.
    """
    rows = [row for row in rows if row.metric not in CLASS_METRICS]  # those of `report.class_tables`
    title += outputs_text(rows)
    by_kind = rows_by_kind(rows)
    names = list(dict.fromkeys(row.checkpoint for row in rows))
    tables: list[TextTable] = []
    for kind, some in by_kind.items():
        if kind == "attack":
            tables += attack_tables(some, names, title if len(by_kind) == 1 else f"attacks: {title}")
        elif kind == "method":
            tables += score_tables(some, names, title)
        elif kind == "probe":
            tables += error_tables(some, names, most)
        elif kind == "sequence":
            tables += sequence_tables(some, names, title)
        else:
            tables += corruption_tables(some, names, title, reference)
    return tables


def outputs_text(rows: Sequence[Row]) -> str:
    """The end of a title where a label is chosen among some outputs of a model alone; else ""."""
    counts = sorted({int(row.value) for row in rows if row.metric == OUTPUTS_METRIC})
    return f", labels among the {' or '.join(map(str, counts))} outputs of the data's classes" if counts else ""


def rows_by_kind(rows: Sequence[Row]) -> dict[str, list[Row]]:
    """The rows of each kind that there is, with those of the clean images; of the clean images alone they are an evaluation's."""
    names: dict[str, set[str]] = {
        "probe": {row.probe for row in rows if row.metric in OF_PROBES},
        "corruption": {row.probe for row in rows if row.metric in OF_CORRUPTIONS},
        "sequence": {row.probe for row in rows if row.metric in OF_SEQUENCES},
    }
    accuracy_names = {row.probe for row in rows if row.metric == "accuracy"}
    sources = {row.probe for row in rows if row.metric == "accuracy" and SOURCE_ROLE in row.setting.split()}
    names["attack"] = accuracy_names - {CLEAN, *names["probe"], *names["corruption"], *sources}
    for kind in ("attack", "probe"):
        names[kind] |= sources & set(map(probe_source, names[kind]))
    other_names = {CLEAN, *sources, *names["probe"], *names["corruption"], *names["sequence"], *names["attack"]}
    names["method"] = {row.probe for row in rows if not row.metric.startswith(("flag/", "check/"))} - other_names
    kinds = [kind for kind in TABLE_KINDS if names[kind]] or (["attack"] if rows else [])
    return {kind: [row for row in rows if row.probe == CLEAN or row.probe in names[kind]] for kind in kinds}


def probe_source(probe: str) -> str:
    """On whose images a probe was measured, clean for those as they are."""
    return probe.partition(" on ")[2] or CLEAN


def setting_words(row: Row) -> dict[str, str]:
    """The key=value words of a row's setting."""
    return setting_dict(row.setting)


def percent(value: float) -> str:
    """A fraction as percent with two digits.

    Args:
        value: a fraction, 1 is 100 %.

    Example:
        >>> percent(0.5)
        '50.00'
    """
    return f"{100 * value:.2f}"


def interval_text(low: float, high: float) -> str:
    """An interval of fractions in percent.

    Args:
        low: the lower end, a fraction.
        high: the upper end, a fraction.
    """
    return f"{100 * low:.1f}{SPACE}-{SPACE}{100 * high:.1f}"


def share_text(row: Row | None) -> str:
    """A share in percent with its interval; a dash where there is none."""
    if row is None or math.isnan(row.value):
        return "-"
    return percent(row.value) if math.isnan(row.low) else f"{percent(row.value)} ({interval_text(row.low, row.high)})"


# attacks


def attack_tables(rows: Sequence[Row], names: Sequence[str], title: str) -> list[TextTable]:
    """What is left after each attack at each radius: of one model with seconds and passes, of several side by side."""
    labels = row_labeller(rows)
    by_label: dict[str, dict[str, Row]] = {}
    for metric in ("accuracy", "rounded_accuracy"):
        for row in rows:
            if row.metric == metric:
                by_label.setdefault(labels(row), {})[row.checkpoint] = row
    span = f"95 % interval{chosen_images_text(rows)}"
    if len(names) > 1:
        side_by_side = [(label, *(share_text(by_name.get(name)) for name in names)) for label, by_name in by_label.items()]
        return [TextTable(f"{title}; % with its {span}", ("probe", *names), side_by_side)]
    costs = {(labels(row), row.metric): row.value for row in rows if row.metric in COSTS}
    lines = [
        (
            label, percent(row.value), interval_text(row.low, row.high),
            *(format(costs[label, metric], form) if (label, metric) in costs else "" for metric, form in COSTS.items()),
        )
        for label, by_name in by_label.items() for row in by_name.values()
    ]  # fmt: skip
    return [TextTable(title, ("probe", "accuracy left %", span, *COSTS), lines)]


def row_labeller(rows: Sequence[Row]) -> Callable[[Row], str]:
    """What gives the line of a row its name: its probe, with norm and radius as far as there are several."""
    threats = {(row.norm, row.eps) for row in rows if row.norm and row.norm != WORST_NORM}
    norms = {norm for norm, _ in threats}
    rounded = [threat for *threat, _ in {(row.norm, row.eps, row.probe) for row in rows if row.metric == "rounded_accuracy"}]

    def label(row: Row) -> str:
        if row.norm == WORST_NORM:
            threats_text = setting_words(row).get("threats", "").replace(":", SPACE).replace(",", f",{SPACE}")
            return f"{WORST_NORM} of {threats_text}" if threats_text else WORST_NORM
        name = row.probe
        if row.metric == "rounded_accuracy":
            name = "after 8-bit rounding" + (f" of {row.probe}" if rounded.count([row.norm, row.eps]) > 1 else "")
        norm, eps = row.norm if len(norms) > 1 else "", eps_text(row.eps) if row.norm and len(threats) > 1 else ""
        return SPACE.join(filter(None, (name, norm, eps)))

    return label


def chosen_images_text(rows: Sequence[Row]) -> str:
    """Of what an anytime-valid interval speaks; "" for the usual ones."""
    anytime = next((row.interval for row in rows if row.interval.startswith("anytime, of ")), "")
    return f" of the {anytime.removeprefix('anytime, of ').removesuffix(' images')} chosen images" if anytime else ""


# probes


def error_tables(rows: Sequence[Row], names: Sequence[str], most: int | None) -> list[TextTable]:
    """The tables of error rates: for clean images, and for those of each stage that gives its own, those of `error_tables_on`."""
    rates = [row for row in rows if row.metric == "error_rate"]
    sources = list(dict.fromkeys(probe_source(row.probe) for row in rates))
    return [
        table
        for source in sources
        for table in error_tables_on(
            source,
            [row for row in rows if row.probe == source or (probe_source(row.probe) == source and row.probe != CLEAN)],
            names,
            most,
        )
    ]


def error_tables_on(source: str, rows: Sequence[Row], names: Sequence[str], most: int | None) -> list[TextTable]:
    """The error rates on the images of a source that each model gets right, and, for several models, on those that all of them do."""
    start = {row.checkpoint: row for row in rows if row.probe == source and row.metric == "accuracy"}
    when = "when clean" if source == CLEAN else f"after {source}"
    own = TextTable(f"error rate % on the images that a model gets right {when}", ("probe", "changed %", *names), [])
    if start:
        accuracies = [start.get(name) for name in names]
        own.lines.append(("clean accuracy" if source == CLEAN else f"accuracy {when}", "", *map(share_text, accuracies)))
        own.lines.append((f"n right {when}", "", *(f"{round(row.value * row.n)} of {row.n}" if row else "-" for row in accuracies)))
    own.lines.extend(level_lines(rows, names, "error_rate", most))
    several = any(row.metric == "error_rate/sd" for row in rows)
    spread_note = "; +- is the standard deviation over the draws" if several else ""
    own = own._replace(title=own.title + spread_note)
    if len(names) == 1:
        return [own]
    n = next((row.n for row in rows if row.metric == "error_rate_shared"), 0)
    title = (
        f"error rate % on the {n} image{'s' * (n != 1)} that all models get right {when}: this changes with the list of models{spread_note}"
    )
    return [own, TextTable(title, own.columns, list(level_lines(rows, names, "error_rate_shared", most)))]


def level_lines(rows: Sequence[Row], names: Sequence[str], metric: str, most: int | None) -> Iterable[tuple[str, ...]]:
    """One line a level: the probe with its level, the share of the image that was changed (mean over the models), each model's error."""
    values = {(row.checkpoint, row.probe, row.setting, row.metric): row for row in rows}
    levels: dict[str, list[str]] = {}
    for row in rows:
        if row.metric == "error_rate" and row.setting not in levels.setdefault(row.probe, []):
            levels[row.probe].append(row.setting)
    for probe, settings in levels.items():
        for setting in evenly_spaced_settings(settings, most):
            shares = [row.value for (_, *level), row in values.items() if level == [probe, setting, "changed_share"]]
            cells = [
                rate_text(values.get((name, probe, setting, metric)), values.get((name, probe, setting, f"{metric}/sd"))) for name in names
            ]
            yield f"{probe} {level_words(settings, setting)}".strip(), f"{100 * sum(shares) / len(shares):.2f}", *cells


def evenly_spaced_settings(settings: Sequence[str], most: int | None) -> Sequence[str]:
    """At most so many of the settings, the first and the last among them."""
    if most is None or len(settings) <= most:
        return settings
    return [settings[round(place * (len(settings) - 1) / (most - 1))] for place in range(most)]


def rate_text(row: Row | None, spread: Row | None) -> str:
    """An error rate with its standard deviation over the draws where there are several, else its interval; a dash where there is none."""
    return f"{percent(row.value)} +- {percent(spread.value)}" if row and spread else share_text(row)


def level_words(settings: Sequence[str], setting: str) -> str:
    """The words of a setting that are not the same for all levels of the probe; a count beside its share is left out."""
    common = set.intersection(*(set(other.split()) for other in settings))
    words = [word for word in setting.split() if word not in common]
    return " ".join(word for word in words if not (word.startswith("k=") and any(other.startswith("t=") for other in words)))


# saliency maps


def score_tables(rows: Sequence[Row], names: Sequence[str], title: str) -> list[TextTable]:
    """The tables of saliency scores, models side by side: the Gini, the other scores, and the Gini beside margin and fate."""
    how = next(
        (f", target {words['target']}, channels {words['channels']}" for words in map(setting_words, rows) if "channels" in words), ""
    )
    own = [row for row in rows if row.probe != CLEAN]
    what = "Gini, mean over images (95 % bootstrap interval)" if any(row.metric == "gini" for row in own) else "the models"
    first = TextTable(f"saliency scores of {title}: {what}{how}", ("method", *names), [])
    clean = {row.checkpoint: row for row in rows if row.probe == CLEAN and row.metric == "accuracy"}
    if clean:
        cells = (f"{100 * clean[name].value:.2f}, n = {clean[name].n}" if name in clean else "-" for name in names)
        first.lines.append(("clean accuracy %", *cells))
    first.lines.extend((method, *cells) for method, _, *cells in score_lines(own, names, lambda row: row.metric == "gini"))
    second = TextTable(f"other scores, means over images{how}", ("method", "score", *names), [], 2)
    second.lines.extend(score_lines(own, names, is_other_score, brief=True))
    third = TextTable("Gini beside the margin and the images that fall", ("method", "what", *names), [], 2)
    third.lines.extend(score_lines(own, names, lambda row: row.metric in FATE))
    return [table for table in (first, second, third) if table.lines]


def is_other_score(row: Row) -> bool:
    """Whether a row is the mean of a score that is not the Gini, or tells of maps that were left out."""
    return "/" not in row.metric and row.metric not in ASIDE and not (row.metric.endswith("_maps") and row.value == 0)


def score_lines(rows: Sequence[Row], names: Sequence[str], wanted: Callable[[Row], bool], brief: bool = False) -> Iterator[tuple[str, ...]]:
    """One line for each method, kind of images and metric that is wanted, with a cell for each model.

    Brief cells have no interval.
    """
    cells: dict[tuple[str, str], dict[str, Row]] = {}
    for row in rows:
        if wanted(row):
            cells.setdefault((method_label(row), row.metric.removeprefix("gini/")), {})[row.checkpoint] = row
    for (method, metric), by_name in cells.items():
        yield method, metric, *(score_text(by_name.get(name), brief) for name in names)


def method_label(row: Row) -> str:
    """The method of a row, with the kind of images that it speaks of and what they are set against, where these are not the clean ones."""
    words = setting_words(row)
    on = f" on {words['images']}" if words.get("images", CLEAN) != CLEAN else ""
    return f"{row.probe}{on}" + (f", {words['against']}" if "against" in words else "")


def score_text(row: Row | None, brief: bool) -> str:
    """A value with its n and, unless in brief, its interval. A dash where there is no value."""
    if row is None or math.isnan(row.value):
        return "-"
    if row.metric.endswith("_maps"):
        return f"{row.value:.0f} of {row.n}"
    value = f"{row.value:.4g}"
    span = "" if brief or math.isnan(row.low) else f" ({row.low:.4g} - {row.high:.4g})"
    return f"{value}{span}, n = {row.n}"


# corruptions


def corruption_tables(rows: Sequence[Row], names: Sequence[str], title: str, reference: Mapping[str, Any] | None) -> list[TextTable]:
    """Models side by side: means over corruptions, each corruption's mean accuracy, and the reference's own.

    Args:
        rows: the rows of kind "corruption".
        names: the models, in the order of the columns.
        title: of the run: models, images, seed, and for attacks the threat.
        reference: what the manifest says of it, None or empty without one.
    """
    first = TextTable(f"corruptions: {title}", ("metric", *names), [])
    first.lines.extend(share_lines(rows, names, lambda row: row.probe == CLEAN and row.metric == "accuracy", lambda _: "clean accuracy %"))
    first.lines.extend(share_lines(rows, names, lambda row: row.probe == OVERALL_PROBE and "severity=" not in row.setting, metric_label))
    severities = sorted({setting_words(row)["severity"] for row in rows if "severity" in setting_words(row)})
    over = f"severity {severities[0]}" if len(severities) == 1 else f"the severities {', '.join(severities)}"
    each = {
        row.probe: setting_words(row).get("severities", "") for row in rows if row.metric == "mean_accuracy" and row.probe != OVERALL_PROBE
    }
    alike = len(set(each.values())) < 2
    second = TextTable(f"mean accuracy % over {over if alike else 'the severities of each'}", ("corruption", *names), [])
    second.lines.extend(
        share_lines(
            rows, names, lambda row: row.probe not in (CLEAN, OVERALL_PROBE) and row.metric == "mean_accuracy",
            lambda row: row.probe if alike else f"{row.probe}, severity {each[row.probe]}",
        )
    )  # fmt: skip
    return [first, second, *([reference_table(reference)] if reference else [])]


def sequence_tables(rows: Sequence[Row], names: Sequence[str], title: str) -> list[TextTable]:
    """Models side by side: flip probabilities of each perturbation and their means, and the distances of the five likeliest labels."""

    def label(row: Row) -> str:
        words = setting_words(row)
        which = {"spatter": " with spatter for snow"}.get(words.get("list", ""), "")
        count = words.get("perturbations", "")
        what = f"{count} perturbation{'s' * (count != '1')}{which}" if count else row.probe
        at = f"difficulty {words['difficulty']}" if words.get("difficulty", "1") != "1" else ""
        by = f"by {words['reference']}" if "reference" in words and not row.metric.startswith("reference_") else ""
        return ", ".join(filter(None, (what, at, row.metric if row.metric not in ("flip_probability", "top5_distance") else "", by)))

    flips = TextTable(f"flip probability % over {title}; 95 % interval", ("perturbation", *names), [])
    flips.lines.extend(share_lines(rows, names, lambda row: row.metric in FLIP_METRICS, label))
    moved: dict[str, dict[str, Row]] = {}
    for row in rows:
        if row.metric in DISTANCE_METRICS:
            moved.setdefault(label(row), {})[row.checkpoint] = row
    distances = TextTable("distance of the five likeliest labels, in ranks; 95 % interval", ("perturbation", *names), [])
    distances.lines.extend((name, *(score_text(by_name.get(model), False) for model in names)) for name, by_name in moved.items())
    return [flips, *([distances] if distances.lines else [])]


def metric_label(row: Row) -> str:
    """The metric of a row, with the reference by which it is divided."""
    words = setting_words(row)
    return f"{row.metric}, by {words['reference']}" if "reference" in words and row.metric != "reference_accuracy" else row.metric


def reference_table(reference: Mapping[str, Any]) -> TextTable:
    """What the reference gets right itself, and by what relative errors are divided: what each corruption adds to its clean error."""
    digest, clean = reference["sha256"], reference.get("clean_accuracy")
    who = f"reference {reference['name']}" + (f", sha256 {digest[:12]}" if digest else ", published errors")
    table = TextTable(f"{who}: its own accuracy", ("images", "accuracy %", "errors added, points"), [])
    if clean is not None:
        table.lines.append((CLEAN, percent(clean), "-"))
    for name, accuracy in reference["accuracy"].items():
        table.lines.append((name, percent(accuracy), "-" if clean is None else f"{100 * (clean - accuracy):+.2f}"))
    return table


def share_lines(
    rows: Sequence[Row], names: Sequence[str], wanted: Callable[[Row], bool], label: Callable[[Row], str]
) -> list[tuple[str, ...]]:
    """One line for each label of the rows that are wanted, with each model's value and interval in percent."""
    by_label: dict[str, dict[str, Row]] = {}
    for row in rows:
        if wanted(row):
            by_label.setdefault(label(row), {})[row.checkpoint] = row
    return [(name, *(share_text(by_name.get(model)) for model in names)) for name, by_name in by_label.items()]
