"""From rows and confusions to the tables of classes: the accuracy of each class, the worst first, and who was taken for whom."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from robench.core.rows import CLASS_METRICS, CLEAN, Row, blank_row
from robench.core.saved_results import manifest_value
from robench.report.tables import SPACE, TextTable, percent, row_labeller, setting_words, share_text
from robench.results.classes import Confusion

CLASS, WORST = CLASS_METRICS
TERMINAL_LINES = 10  # classes that a terminal shows, of all models together
TERMINAL_PAIRS = 5  # pairs of classes of each model that a terminal shows
PAGE_LINES, SHORTENED_LINES = 200, 11  # a page shows all classes up to so many; of more the ten worst and the best
PAGE_PAIRS = 10  # pairs of classes after each verdict that a page shows
WIDEST = 2  # verdicts that a terminal has room for with their intervals
MOST_NAMES = 5  # classes without an image that are named
LONGEST_CLASS_NAME = 40  # letters


def class_tables(
    rows: Sequence[Row], confusions: Sequence[Confusion], classes: Sequence[str] = (), *, brief: bool = False
) -> list[TextTable]:  # fmt: skip
    """The accuracy of each class, a table for each model, and the most frequent confusions.

    Args:
        rows: the rows of one run.
        confusions: the cells of its confusion matrices.
        classes: the names of the classes in the order of their labels; empty where they are not known.
        brief: whether the tables are for a terminal: few classes, few pairs, and nothing where only the clean accuracy has classes beside
            what was measured.
    """
    mine = [row for row in rows if row.metric in CLASS_METRICS]
    if brief and all(row.probe == CLEAN for row in mine) and any(row.probe != CLEAN for row in rows):
        return []
    models = list(dict.fromkeys(row.checkpoint for row in mine))
    most = max(1, TERMINAL_LINES // len(models)) if brief and models else None
    tables = [model_class_table([row for row in mine if row.checkpoint == name], classes, len(models) > 1, most) for name in models]
    pairs = confusion_table(confusions, row_labeller(mine), classes, brief)
    return [*tables, *([pairs] if pairs.lines else [])]


def class_names_in(manifest: Mapping[str, Any]) -> list[str]:
    """The names of the classes that a manifest tells, in words where it has these, in the order of their labels; none without a list.

    Args:
        manifest: the content of manifest.json.
    """
    lists = [manifest_value(manifest, key) for key in ("data.classes_in_words", "data.classes")]
    return next(([str(name) for name in names] for names in lists if isinstance(names, list)), [])


def class_text(label: int, classes: Sequence[str]) -> str:
    """A class in a table: its label, and its name where that says more."""
    name = "".join(filter(str.isprintable, " ".join(classes[label].split()))) if 0 <= label < len(classes) else ""
    name = name if len(name) <= LONGEST_CLASS_NAME else f"{name[: LONGEST_CLASS_NAME - 3]}..."
    return f"{label} {name}" if name and name != str(label) else str(label) if label >= 0 else "unknown"


def row_class(row: Row) -> int:
    """The label of the class of which a row speaks, -1 where it names none."""
    word = setting_words(row).get("class", "")
    return int(word) if word.isdecimal() and len(word) < 10 else -1


def model_class_table(rows: Sequence[Row], classes: Sequence[str], has_others: bool, most: int | None) -> TextTable:
    """The classes of one model, those with the lowest accuracy in the last verdict first, under the worst class of each verdict."""
    label_of = row_labeller(rows)
    by_class: dict[int, dict[str, Row]] = {}
    for row in rows:
        if row.metric == CLASS:
            by_class.setdefault(row_class(row), {})[label_of(row)] = row
    verdicts = list(dict.fromkeys(map(label_of, rows)))
    worst = {label_of(row): row for row in rows if row.metric == WORST}
    order = sorted(by_class, key=lambda label: ([by_class[label][v].value if v in by_class[label] else 2.0 for v in verdicts[::-1]], label))
    is_narrow = most is not None and len(verdicts) > WIDEST
    write = plain_share_text if is_narrow else share_text
    lines = [class_line(label, by_class[label], verdicts, classes, write) for label in order]
    first = ("worst class", "", *(f"{row_class(worst[v])}:{SPACE}{write(worst[v])}" if v in worst else "-" for v in verdicts))
    whose, span = f" of {rows[0].checkpoint}" if has_others else "", ", intervals in rows.csv" if is_narrow else " with its 95 % interval"
    title = f"classes{whose}: accuracy %{span}{missing_class_words(order, classes)}"
    return TextTable(title, ("class", "n", *verdicts), [first, *shortened_lines(lines, most)])


def plain_share_text(row: Row | None) -> str:
    """A share in percent without its interval; a dash where there is none."""
    return "-" if row is None else percent(row.value)


def class_line(
    label: int, by_verdict: Mapping[str, Row], verdicts: Sequence[str], classes: Sequence[str], write: Callable[[Row | None], str]
) -> tuple[str, ...]:
    """The line of one class: its name, how many images it has, and its accuracy in each verdict."""
    n = max(row.n for row in by_verdict.values())
    return class_text(label, classes), str(n), *(write(by_verdict.get(verdict)) for verdict in verdicts)


def shortened_lines(lines: Sequence[tuple[str, ...]], most: int | None) -> list[tuple[str, ...]]:
    """At most so many lines: the first ones and the last, and between them how many are left out."""
    most = most or (len(lines) if len(lines) <= PAGE_LINES else SHORTENED_LINES)
    if len(lines) <= most:
        return [*lines]
    gap = (f"({len(lines) - most} more)", *("" for _ in lines[0][1:]))
    return [*lines[: most - 1], gap, lines[-1]] if most > 1 else [lines[0], (f"({len(lines) - 1} more)", *gap[1:])]


def missing_class_words(labels: Sequence[int], classes: Sequence[str]) -> str:
    """Which classes have no image, or how many where they are many; "" where each has one or the classes are not known."""
    missing = sorted({*range(len(classes))} - {*labels})
    if not missing:
        return ""
    which = ", ".join(class_text(label, classes) for label in missing) if len(missing) <= MOST_NAMES else f"{len(missing)} classes"
    return f"; no image of {which}"


def confusion_table(confusions: Sequence[Confusion], label_of: Callable[[Row], str], classes: Sequence[str], brief: bool) -> TextTable:
    """The pairs of a class and what it was most often taken for, of each verdict; in brief of each model's lowest one alone."""
    groups: dict[tuple[str, str], list[Confusion]] = {}
    several = len({one.checkpoint for one in confusions}) > 1
    for one in confusions:
        verdict = label_of(replace(blank_row(), norm=one.norm, eps=one.eps, probe=one.probe))
        groups.setdefault((one.checkpoint, verdict), []).append(one)
    shown = {model: max(groups, key=lambda group: (group[0] == model, wrong_count(groups[group]))) for model, _ in groups}
    lines: list[tuple[str, ...]] = [
        (f"{checkpoint}, {verdict}" if several else verdict, *words)
        for (checkpoint, verdict), cells in groups.items()
        if not brief or verdict == shown[checkpoint][1]
        for words in pair_lines(cells, classes, TERMINAL_PAIRS if brief else PAGE_PAIRS)
    ]
    return TextTable("most frequent confusions", ("after", "class -> taken for", "images"), lines, 2)


def wrong_count(cells: Sequence[Confusion]) -> int:
    """How many images of a confusion matrix have another label than their own."""
    return sum(cell.count for cell in cells if cell.label != cell.predicted)


def pair_lines(cells: Sequence[Confusion], classes: Sequence[str], most: int) -> list[tuple[str, str]]:
    """The most frequent pairs of one confusion matrix with their counts."""
    totals: dict[int, int] = {}
    for cell in cells:
        totals[cell.label] = totals.get(cell.label, 0) + cell.count
    wrong = sorted((cell for cell in cells if cell.label != cell.predicted), key=lambda cell: (-cell.count, cell.label, cell.predicted))
    return [
        (f"{class_text(cell.label, classes)} -> {class_text(cell.predicted, classes)}", f"{cell.count} of {totals[cell.label]}")
        for cell in wrong[:most]
    ]
