"""A comparison for those who read it elsewhere: Markdown, JUnit XML, JSON, annotations of GitHub, and the table of a paper in LaTeX.

Whatever comes from outside, such as the names of models, is escaped in each.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any
from xml.etree import ElementTree

from robench.core.paired import holm
from robench.core.recipes import eps_text
from robench.core.rows import WORST_NORM, Row
from robench.report.comparison import Comparison, is_headline
from robench.report.plain_text import latex_text, markdown_text
from robench.results.compare import ComparedRow, ComparisonLine, attack_radii
from robench.results.gates import CANNOT_TELL, FELL, HELD, NOT_FELL, GateResult, row_text
from robench.results.seed_means import SeedLine

VERDICT_SENTENCES = {
    FELL: "A gate fell: something became worse by more than chance and is allowed.",
    CANNOT_TELL: "No gate fell, but there are too few images to tell whether all held.",
    HELD: "No gate fell, and all that have a tolerance held.",
    NOT_FELL: "No gate fell.",
}
NOT_FOR_XML = re.compile(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
LINE_HEADER = ("row", "BASE", "NEW", "change", "interval", "lost", "won", "p")
SEED_HEADER = ("row", "BASE", "sd", "seeds", "NEW", "sd", "seeds", "change", "p over images", "p over seeds")
GATE_HEADER = ("gate", "row", "verdict", "p")


# --- the words of all of them


def runs_title(found: Comparison) -> str:
    """NEW against its bases, with the images that are compared.

    Args:
        found: the comparison.
    """
    pair, bases = found.pairs[-1], [str(pair.base.run.folder) for pair in found.pairs]
    line = pair.compared[0].line(found.interval_alpha)
    against = bases[0] if len(bases) == 1 else f"{len(bases)} runs, the latest {bases[-1]}"
    return f"{pair.new.run.folder} against {against}: {line.data} {line.split}, n = {len(pair.models[0][1].labels)}{threats_text(found)}"


def threats_text(found: Comparison) -> str:
    """The threats of the rows."""
    rows = [one.row for one in found.pairs[-1].compared if one.row.metric == "accuracy"]
    norms = [norm for norm in dict.fromkeys(row.norm for row in rows) if norm not in ("", WORST_NORM)]
    texts = [f"{norm} eps = {', '.join(map(eps_text, attack_radii([row for row in rows if row.norm == norm])))}" for norm in norms]
    return f", {'; '.join(texts)}" if texts else ""


def family_sentence(found: Comparison) -> str:
    """What alpha is for, in a sentence.

    Args:
        found: the comparison.
    """
    tests, bases = found.tests, len(found.pairs)
    against = f" against {bases} runs" if bases > 1 else ""
    if not tests:
        return "No gate made a test."
    one = "test" if tests == 1 else "tests"
    return f"alpha {found.alpha:g} is for all gates together: {tests} {one}{against}, p values adjusted by Holm's procedure"


def verdict_sentence(found: Comparison) -> str:
    """The verdict of all gates in a sentence.

    Args:
        found: the comparison.
    """
    return VERDICT_SENTENCES[found.verdict]


def line_cells(line: ComparisonLine, name: str) -> tuple[str, ...]:
    """The cells of a line of a table: numbers in percent and points, of scores and other numbers as they are.

    Args:
        line: the line.
        name: what stands in the first column.
    """
    share = is_in_percent(line)
    scale = 100 if share else 1

    def text(value: float) -> str:
        return f"{scale * value:.2f}" if share else f"{value:.4g}"

    change = f"{scale * line.difference:+.2f}" if share else f"{line.difference:+.3g}"
    ends = (
        "-" if math.isnan(line.low) else f"{scale * line.low:.1f}, {scale * line.high:.1f}" if share else f"{line.low:.3g}, {line.high:.3g}"
    )
    return (
        name, text(line.base), text(line.new), change if line.difference else "0.00", ends, str(line.only_base), str(line.only_new),
        p_value_text(line.p),
    )  # fmt: skip


def is_in_percent(line: ComparisonLine) -> bool:
    """Whether the numbers of a line are shares of images, which are shown in percent."""
    return line.test != "bootstrap"


def p_value_text(p: float) -> str:
    """A p value in six characters at most.

    Args:
        p: the p value.
    """
    return f"{p:.2g}" if p >= 0.001 or not p else f"{p:.0e}"


def adjusted_text(result: GateResult) -> str:
    """The adjusted p value of a gate, "-" for flags.

    Args:
        result: what the gate says.
    """
    return "-" if math.isnan(result.p) else p_value_text(result.p)


def row_names(found: Comparison) -> Callable[[Row], str]:
    """How rows are called in tables: with norm and radius only as far as the attacks of the runs differ in them.

    Args:
        found: the comparison.
    """
    rows = [one.row for one in found.pairs[-1].compared if one.row.norm and one.row.norm != WORST_NORM]
    norms, threats = {row.norm for row in rows}, {(row.norm, row.eps) for row in rows}

    def name(row: Row) -> str:
        plain = row_text(row, with_threat=False)
        if len(threats) < 2 or not row.norm or row.norm == WORST_NORM:
            return plain
        return " ".join([plain, *([row.norm] if len(norms) > 1 else []), eps_text(row.eps)])

    return name


def result_row_text(result: GateResult, several: bool, name_of: Callable[[Row], str] = row_text) -> str:
    """The row of a gate, with the model and the base where there are several.

    Args:
        result: what the gate says.
        several: whether NEW holds several models.
        name_of: how a row is called.
    """
    name = "flags" if result.compared is None else name_of(result.compared.row)
    model = f"{result.compared.row.checkpoint}: " if several and result.compared is not None else ""
    return model + name + (f" against {result.pair.base_name}" if result.pair.is_one_of_several else "")


def has_several_models(found: Comparison) -> bool:
    """Whether several models are compared.

    Args:
        found: the comparison.
    """
    return len(found.pairs[-1].models) > 1


def headline_lines(found: Comparison) -> list[tuple[ComparedRow, ComparisonLine]]:
    """The rows that a short table shows, with their lines.

    Args:
        found: the comparison.
    """
    return [(one, one.line(found.interval_alpha)) for one in found.headlines()]


# --- groups of seeds


def seed_line_cells(line: SeedLine, name: str) -> tuple[str, ...]:
    """The cells of a row of two groups of seeds: numbers in percent and points, of scores and other numbers as they are.

    Args:
        line: the row.
        name: what stands in the first column.
    """
    share = "bootstrap" not in line.test_images

    def text(value: float) -> str:
        return "-" if math.isnan(value) else f"{100 * value:.2f}" if share else f"{value:.4g}"

    change = f"{100 * line.difference:+.2f}" if share else f"{line.difference:+.3g}"
    return (
        name, text(line.base), text(line.base_sd), str(line.base_seeds), text(line.new), text(line.new_sd), str(line.new_seeds), change,
        p_value_text(line.p_images), "-" if math.isnan(line.p_seeds) else p_value_text(line.p_seeds),
    )  # fmt: skip


def headline_seed_lines(found: Comparison) -> list[SeedLine]:
    """The rows of groups of seeds that a short table shows.

    Args:
        found: the comparison.
    """
    return [line for line in found.seed_lines if is_headline(line.row)]


def seed_sentences(found: Comparison) -> list[str]:
    """How the table of groups of seeds is to be read, and why seeds were not tested; none where there are no groups.

    Args:
        found: the comparison.
    """
    how = "p over images is of these networks (of each image the mean over seeds), p over seeds of trainings with other seeds (Welch's t)"
    reasons = dict.fromkeys(line.note for line in found.seed_lines if line.note)
    return [how, *reasons] if found.seed_lines else []


def seed_table(found: Comparison) -> list[tuple[str, ...]]:
    """The lines of the table of groups of seeds, each with its groups where there are several.

    Args:
        found: the comparison.
    """
    several, name_of = len({line.new_group for line in found.seed_lines}) > 1, row_names(found)
    return [seed_line_cells(line, (f"{line.new_group}: " if several else "") + name_of(line.row)) for line in headline_seed_lines(found)]


# --- Markdown


def comparison_markdown(found: Comparison) -> str:
    """The comparison as Markdown: verdict, gates, rows, notes.

    Args:
        found: the comparison.
    """
    several, name_of = has_several_models(found), row_names(found)
    marks = {FELL: "**fell**", CANNOT_TELL: "*cannot tell*"}
    gates = [
        (result.gate.sentence, result_row_text(result, several, name_of), marks.get(result.verdict, result.verdict), adjusted_text(result))
        for result in found.gates
    ]
    lines = [line_cells(line, (f"{line.new_checkpoint}: " if several else "") + name_of(one.row)) for one, line in headline_lines(found)]
    level = f"{100 * (1 - found.interval_alpha):g} % interval"
    parts = [
        f"## robench: {markdown_text(verdict_sentence(found))}",
        markdown_text(runs_title(found)),
        *(f"- **fell**: {markdown_text(sentence)}" for sentence in found.failures),
        *(f"- cannot tell: {markdown_text(sentence)}" for sentence in found.warnings),
        markdown_table(GATE_HEADER, gates, raw=2) if gates else "",
        markdown_text(f"{family_sentence(found)}; accuracies and errors in %, changes in points."),
        markdown_table([level if name == "interval" else name for name in LINE_HEADER], lines),
        *([markdown_text(f"{sentence}.") for sentence in seed_sentences(found)]),
        markdown_table(SEED_HEADER, seed_table(found)) if found.seed_lines else "",
        *(f"- {markdown_text(note)}" for note in found.notes),
    ]
    return "\n\n".join(filter(None, joined_items(parts))) + "\n"


def joined_items(parts: Sequence[str]) -> Iterator[str]:
    """Parts with the items of a list that follow one another joined, so that they stay one list."""
    items: list[str] = []
    for part in [*parts, ""]:
        if part.startswith("- "):
            items.append(part)
            continue
        if items:
            yield "\n".join(items)
            items = []
        yield part


def markdown_table(header: Sequence[str], lines: Sequence[Sequence[str]], raw: int = -1) -> str:
    """A table in Markdown.

    Args:
        header: the titles.
        lines: the cells, as texts.
        raw: the column whose cells are Markdown already, -1 for none.
    """
    rows = [[cell if place == raw else markdown_text(cell) for place, cell in enumerate(line)] for line in lines]
    rule = ["---" if place == 0 or not is_number_column(lines, place) else "---:" for place in range(len(header))]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in [[markdown_text(name) for name in header], rule, *rows])


def is_number_column(lines: Sequence[Sequence[str]], place: int) -> bool:
    """Whether a column holds numbers and intervals alone."""
    return bool(lines) and all(re.fullmatch(r"[-+0-9.e, ]+", line[place]) for line in lines)


# --- JUnit, JSON, annotations


def comparison_junit(found: Comparison, strict: bool = False) -> bytes:
    """The gates as a JUnit XML file: a test case a gate and row; one that fell is a failure, one that cannot tell is skipped.

    Args:
        found: the comparison.
        strict: whether one that cannot tell is a failure too.
    """
    failing = {FELL, CANNOT_TELL} if strict else {FELL}
    failures = sum(result.verdict in failing for result in found.gates)
    skipped = sum(result.verdict == CANNOT_TELL for result in found.gates) * (not strict)
    about = {"name": "robench compare", "tests": str(len(found.gates)), "failures": str(failures), "errors": "0", "skipped": str(skipped)}
    suites = ElementTree.Element("testsuites", about)
    suite = ElementTree.SubElement(suites, "testsuite", {**about, "timestamp": xml_text(found.new.run.finished.removesuffix("Z"))})
    several = has_several_models(found)
    for result in found.gates:
        name = f"{result.gate.sentence} at {result_row_text(result, several)}"
        case = ElementTree.SubElement(
            suite, "testcase", {"classname": xml_text(found.new.run.folder.name), "name": xml_text(name), "time": "0"}
        )
        sentence = xml_text(result.sentence)
        if result.verdict in failing:
            ElementTree.SubElement(case, "failure", {"message": sentence, "type": result.verdict}).text = sentence
        elif result.verdict == CANNOT_TELL:
            ElementTree.SubElement(case, "skipped", {"message": sentence})
        else:
            ElementTree.SubElement(case, "system-out").text = sentence
    ElementTree.indent(suites)
    return bytes(ElementTree.tostring(suites, encoding="utf-8", xml_declaration=True)) + b"\n"


def xml_text(words: str) -> str:
    """Any words without what XML cannot hold."""
    return NOT_FOR_XML.sub("?", words)


def comparison_json(found: Comparison) -> dict[str, Any]:
    """The comparison as plain values.

    Args:
        found: the comparison.

    Returns:
        verdict, alpha, tests, new, bases, gates (gate, row, base, verdict, p, sentence), lines (all rows against the latest base), notes,
        seed_groups (rows of groups of seeds).
    """
    gates = [
        {
            "gate": result.gate.sentence, "base": str(result.pair.base.run.folder), "verdict": result.verdict, "p": plain_number(result.p),
            "row": None if result.compared is None else plain_numbers(asdict(result.compared.line(found.interval_alpha))),
            "sentence": result.sentence,
        }
        for result in found.gates
    ]  # fmt: skip
    return {
        "verdict": found.verdict, "alpha": found.alpha, "tests": found.tests, "new": str(found.new.run.folder),
        "bases": [str(pair.base.run.folder) for pair in found.pairs], "gates": gates,
        "lines": [plain_numbers(asdict(line)) for line in found.lines], "notes": [*found.notes],
        "seed_groups": [plain_numbers(asdict(line)) for line in found.seed_lines],
    }  # fmt: skip


def plain_numbers(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values with None for nan, which JSON does not know."""
    return {key: plain_number(value) for key, value in values.items()}


def plain_number(value: Any) -> Any:
    """A value, None for nan and infinities."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def json_text(found: Comparison) -> str:
    """The comparison as the text of a JSON file.

    Args:
        found: the comparison.
    """
    return json.dumps(comparison_json(found), indent=2, allow_nan=False) + "\n"


def github_annotations(found: Comparison, strict: bool = False) -> list[str]:
    """Commands of a GitHub workflow that show each gate which fell as an error and each that cannot tell as a warning.

    Args:
        found: the comparison.
        strict: whether one that cannot tell is an error too.
    """
    levels = {FELL: "error", CANNOT_TELL: "error" if strict else "warning"}
    return [
        f"::{levels[result.verdict]} title={annotation_text(result.gate.sentence, in_value=True)}::{annotation_text(result.sentence)}"
        for result in found.gates
        if result.verdict in levels
    ]


def annotation_text(words: str, in_value: bool = False) -> str:
    """Words in a workflow command, in which a line break would begin another one."""
    escapes = {"%": "%25", "\r": "%0D", "\n": "%0A", **({":": "%3A", ",": "%2C"} if in_value else {})}
    return "".join(escapes.get(letter, letter) for letter in words)


# --- LaTeX


def comparison_latex(found: Comparison) -> str:
    """The rows as a LaTeX table (needs booktabs): both numbers and the change with its interval, bold where it is significant.

    A change is significant where its p value, adjusted by Holm over the rows of the table, is at most alpha.

    Args:
        found: the comparison.
    """
    shown, several, name_of = headline_lines(found), has_several_models(found), row_names(found)
    adjusted = holm([line.p for _, line in shown])
    lines = []
    for (one, line), p in zip(shown, adjusted, strict=True):
        name, base, new, change, ends, *_ = line_cells(line, (f"{line.new_checkpoint}: " if several else "") + name_of(one.row))
        bold = f"$\\mathbf{{{change}}}$" if p <= found.alpha else f"${change}$"
        lines.append(f"{latex_text(name)} & ${base}$ & ${new}$ & {bold} & $[{ends}]$ \\\\")
    caption = (
        f"{runs_title(found)}. Accuracies and errors in percent; changes in points with {100 * (1 - found.interval_alpha):g} % intervals;"
        f" bold where significant at {found.alpha:g} after Holm over {len(lines)} rows."
    )
    head = ["\\begin{table}", "\\centering", f"\\caption{{{latex_text(caption)}}}", "\\begin{tabular}{lrrrr}", "\\toprule"]
    titles = ["& base & new & change & interval \\\\", "\\midrule"]
    return "\n".join([*head, *titles, *lines, "\\bottomrule", "\\end{tabular}", "\\end{table}"]) + "\n"
