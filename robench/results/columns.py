"""What a column of a table of models is, and the names by which one asks for it, as gates are named: `autoattack@norm=l2`.

A column is one number that each model may have: the same data set, probe, metric, threat and setting. What differs in one of them stands
in a column of its own, so that no two numbers of different things stand under each other.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from robench.core.errors import InputError
from robench.core.recipes import eps_text, parse_fraction
from robench.core.rows import CLEAN, OVERALL_PROBE, OVERALL_SEQUENCES, SOURCE_ROLE, WORST_NORM, Row, setting_dict
from robench.results.named_rows import METRIC_ALIASES, name_and_words

MAIN_METRICS = ("mean_accuracy", "accuracy", "error_rate", "gini", "flip_probability")  # what a probe's name means, the first that it has
ROW_KEYS = ("data", "split", "metric", "norm", "probe", "checkpoint")  # of a column's name, besides eps and the words of the setting
SAME_KEYS = {"method": "probe", "corruption": "probe", "attack": "probe", "suite": "probe"}
CORRUPTED_ENDS = ("-c-synth", "-c")  # of the name of a set whose images are those of another one, corrupted
DEFAULT_OVERALL = ("mean_corruption_error", "mean_error")


@dataclass(frozen=True, order=True)
class Column:
    """One number that each model may have.

    Attributes:
        data: the data set.
        split: its split.
        probe: what was done, as in `Row`.
        metric: what was measured.
        norm: of the threat; "" where there is none.
        eps: its radius in pixel units.
        setting: options as key=value words.
    """

    data: str
    split: str
    probe: str
    metric: str
    norm: str
    eps: float
    setting: str

    @cached_property
    def words(self) -> dict[str, str]:
        """The words of the setting."""
        return setting_dict(self.setting)

    @property
    def threat(self) -> str:
        """The threat, such as "linf 8/255"; "" where there is none."""
        if self.norm == WORST_NORM:
            return f"{WORST_NORM} of {self.words.get('threats', 'all threats')}"
        return f"{self.norm} {eps_text(self.eps)}" if self.norm else ""


@dataclass(frozen=True)
class ColumnRequest:
    """What a user asked for.

    Attributes:
        name: a probe, a metric, "class" or "worst-class".
        words: what else must hold, such as norm, eps, method, severity, class; of a checkpoint, the columns that it has.
        text: as it was written.
    """

    name: str
    words: Mapping[str, str]
    text: str


def column_of_row(row: Row) -> Column:
    """The column in which a row stands: clean images of a corrupted set are those of the set, and only frost depends on how it is made.

    Args:
        row: a row of any run.
    """
    data, setting = (base_data(row.data), row.setting) if row.probe == CLEAN else (row.data, row.setting)
    if "frost=" in setting and row.probe not in (OVERALL_PROBE, "frost"):
        setting = " ".join(word for word in setting.split() if not word.startswith("frost="))
    return Column(data, row.split, row.probe, row.metric, row.norm, row.eps, setting)


def base_data(name: str) -> str:
    """The data set whose images a corrupted one shows: cifar10 for cifar10-c.

    Args:
        name: the name of a data set.

    Example:
        >>> base_data("shapes-c-synth"), base_data("cifar10")
        ('shapes', 'cifar10')
    """
    return next((name[: -len(end)] for end in CORRUPTED_ENDS if name.endswith(end) and name != end), name)


def column_requests(texts: Sequence[str]) -> list[ColumnRequest]:
    """The columns that a user asked for.

    Args:
        texts: each NAME or NAME@KEY=VALUE[@KEY=VALUE], several joined by commas.

    Raises:
        InputError: for one that is not written so, or comes twice.

    Example:
        >>> [one.name for one in column_requests(["clean,autoattack@norm=l2"])]
        ['clean', 'autoattack']
    """
    words = [word.strip() for text in texts for word in text.split(",")]
    if twice := [word for place, word in enumerate(words) if word in words[:place]]:
        raise InputError(f"the column {twice[0]} is named twice: leave one out")
    return [column_request(word) for word in words]


def column_request(text: str) -> ColumnRequest:
    """One column that a user asked for."""
    if (parts := name_and_words(text)) is None:
        raise InputError(f"{text!r} names no column: write NAME or NAME@KEY=VALUE, such as clean or autoattack@norm=l2")
    name, pairs = parts
    words = {SAME_KEYS.get(key, key): value for key, value in pairs}
    if "eps" in words:
        try:
            parse_fraction(words["eps"])
        except ValueError:
            raise InputError(f"{text!r} has no radius behind eps=: write one such as 8/255 or 0.5") from None
    return ColumnRequest(name, words, text)


def requested_columns(request: ColumnRequest, rows: Sequence[Row]) -> list[Column]:
    """The columns that a request names, in the order of the rows.

    A probe's name means its accuracy, under corruptions the mean over severities, of a probe its error rate, of a method its Gini; a
    metric's name means that metric wherever it was measured. Scores are those of the clean images unless images=... is given.

    Args:
        request: what was asked for.
        rows: the rows of all runs.

    Returns:
        None of them where nothing fits.
    """
    fitting = [row for row in rows if is_number_of_model(row) and fits_words(row, request.words)]
    by_probe = [row for row in fitting if row.probe == request.name]
    if "metric" not in request.words:
        metric = next((name for name in MAIN_METRICS if any(row.metric == name for row in by_probe)), "")
        by_probe = [row for row in by_probe if row.metric == metric]
    wanted = METRIC_ALIASES.get(request.name, request.name)
    return list(dict.fromkeys(map(column_of_row, by_probe or [row for row in fitting if row.metric == wanted])))


def is_number_of_model(row: Row) -> bool:
    """Whether a row is a number of a model, and not of images that a stage only gives to others, or of the reference."""
    return SOURCE_ROLE not in row.setting.split() and not row.metric.startswith("reference_")


def fits_words(row: Row, words: Mapping[str, str]) -> bool:
    """Whether a row is of what the words of a request say; what is measured severity by severity, or on changed images, only if asked."""
    setting = setting_dict(row.setting) if words or "images=" in row.setting or row.probe == OVERALL_PROBE else {}
    if row.probe == OVERALL_PROBE and "severity" in setting and "severity" not in words:
        return False
    if setting.get("images", CLEAN) != CLEAN and "images" not in words:
        return False
    for key, value in words.items():
        if key == "eps":
            if not row.norm or not math.isclose(row.eps, parse_fraction(value), rel_tol=1e-6):
                return False
        elif key in ROW_KEYS:
            if getattr(row, key) != value:
                return False
        elif setting.get(key) != value:
            return False
    return True


def default_columns(runs: Sequence[Sequence[Row]]) -> list[Column]:
    """What is shown where nobody chose: the clean accuracy, what stands at the end of each cascade, the error over corruptions, the Gini.

    Args:
        runs: the rows of each run.
    """
    last = [row for some in runs for row in verdict_rows_of(some)]
    main = [row for some in runs for row in some if row.probe in (CLEAN, OVERALL_PROBE) or row.metric == "gini"]
    rows = [row for row in main if is_number_of_model(row) and fits_words(row, {})]
    clean = [row for row in rows if row.probe == CLEAN and row.metric == "accuracy" and not row.norm]
    overall = [row for row in rows if row.probe == OVERALL_PROBE]
    metric = next((name for name in DEFAULT_OVERALL if any(row.metric == name for row in overall)), "")
    moving = [row for some in runs for row in some if row.metric == "mean_flip_probability"]
    gini = [row for row in rows if row.metric == "gini"]
    chosen = [*clean, *last, *(row for row in overall if row.metric == metric), *moving, *gini]
    return list(dict.fromkeys(map(column_of_row, chosen)))


def verdict_rows_of(rows: Iterable[Row]) -> list[Row]:
    """The last accuracy of each cascade on the images as they are: what a model, a data set and a threat leave in the end.

    Args:
        rows: of one run.
    """
    last: dict[tuple[str, str, str, str, float, bool], Row] = {}
    for row in rows:
        if row.metric == "accuracy" and row.norm and row.probe != CLEAN and " on " not in row.probe:
            last[row.checkpoint, row.data, row.split, row.norm, row.eps, not row.setting] = row
    suites = {key[:-1] for key in last if key[-1]}
    return [row for key, row in last.items() if key[-1] or key[:-1] not in suites]


def column_titles(columns: Sequence[Column]) -> list[str]:
    """What stands over columns: as much as tells them apart, and always the threat.

    Args:
        columns: those of one table.

    Example:
        >>> column_titles([Column("shapes", "test", "autoattack", "accuracy", "linf", 8 / 255, "")])
        ['autoattack linf 8/255']
    """
    titles = [" ".join(filter(None, (plain_title(column), column.threat))) for column in columns]
    return [
        " ".join([title, *differing_words(column, [other for other, its in zip(columns, titles, strict=True) if its == title])])
        for column, title in zip(columns, titles, strict=True)
    ]


def plain_title(column: Column) -> str:
    """What a column is of, without its threat and setting."""
    if column.probe in (OVERALL_PROBE, OVERALL_SEQUENCES):
        return column.metric
    severity = [f"severity {column.words['severity']}"] if column.words.get("severity", "").isdecimal() else []
    words = [column.probe, *severity, *([] if column.metric in MAIN_METRICS[:2] else [column.metric])]
    return " ".join(words)


def differing_words(column: Column, others: Sequence[Column]) -> Iterator[str]:
    """The words of a column in which those that are called alike differ from each other."""
    for key in ("data", "split"):
        if len({getattr(other, key) for other in others}) > 1:
            yield getattr(column, key)
    if len({other.setting for other in others}) > 1:
        yield from (
            f"{key}={column.words[key]}"
            for key in dict.fromkeys(key for other in others for key in other.words)
            if key in column.words and len({other.words.get(key) for other in others}) > 1
        )
