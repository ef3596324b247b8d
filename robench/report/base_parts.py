"""A comparison with an earlier run on the page of the later one: what the gates say, what changed, and which images."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from robench.core.rows import Row
from robench.report import page
from robench.report.board_parts import number_words
from robench.report.changed_images import changed_image_parts
from robench.report.comparison import Comparison
from robench.report.comparison_files import SEED_HEADER, seed_sentences, seed_table
from robench.report.run_list import is_percentage
from robench.results.compare import ComparedRow
from robench.results.gates import CANNOT_TELL, FELL, HELD, row_text

STATES = {FELL: "bad", HELD: "good", CANNOT_TELL: "unsure"}


def comparison_parts(comparison: Comparison, data_dir: Path | None, data: str = "") -> Iterator[page.Part]:
    """What a run is against its base: the verdict of the gates, the differences of its main numbers, and the images that changed.

    Args:
        comparison: what `report.comparison.compare` gives.
        data_dir: where torchvision's sets lie; ./data if not given.
        data: the user's own word for the data set; "" for that of the manifest.
    """
    pair = comparison.pairs[-1]
    yield page.VerdictBox(base_sentence(comparison), STATES.get(comparison.verdict, "plain"))
    yield page.Heading(f"Against {pair.base_name}")
    yield from (page.NoteBox(note) for note in comparison.notes)
    if comparison.gates:
        lines = [(result.gate.sentence, page.TableCell(result.verdict, kind=STATES.get(result.verdict, "")), result.sentence)
                 for result in comparison.gates]  # fmt: skip
        yield page.DataTable(("gate", "verdict", "why"), lines, "What the gates say")
    several = len(pair.models) > 1
    head = (*(("model",) if several else ()), "number", "BASE", "NEW", "change", f"{100 * (1 - comparison.interval_alpha):g} % interval",
            "lost", "won", "p")  # fmt: skip
    rows = [difference_cells(one, comparison.interval_alpha, several) for one in comparison.headlines()]
    yield page.DataTable(head, rows, "The same images in both runs; a change in points where the number is in percent", grouped=several)
    if comparison.seed_lines:
        caption = f"Over training seeds; {'; '.join(seed_sentences(comparison))}"
        yield page.DataTable(SEED_HEADER, seed_table(comparison), caption)
    yield from changed_image_parts(pair, data_dir, data)


def base_sentence(comparison: Comparison) -> str:
    """What came out against the base."""
    base = comparison.pairs[-1].base_name
    names = {
        verdict: ", ".join(dict.fromkeys(one.gate.sentence for one in comparison.gates if one.verdict == verdict))
        for verdict in (FELL, CANNOT_TELL)
    }
    count = len(comparison.gates)
    told = f"Against {base} a gate fell: {names[FELL]}" if names[FELL] else f"Against {base} no gate fell, of {count} tested"
    return f"{told}; the images cannot tell of {names[CANNOT_TELL]}." if names[CANNOT_TELL] else f"{told}."


def difference_cells(one: ComparedRow, alpha: float, several: bool) -> tuple[page.CellValue, ...]:
    """One number in both runs with the interval of its change."""
    line, row = one.line(alpha), one.row
    scale = 100 if is_percentage(row.metric) else 1
    places = 2 if scale > 1 else 4
    change = f"{scale * line.difference:+.{places}f}" if line.difference else f"{0:.{places}f}"
    return (
        *((row.checkpoint,) if several else ()), row_text(row), shown_number(row, line.base), shown_number(row, line.new), change,
        f"{scale * line.low:+.{places}f} to {scale * line.high:+.{places}f}", line.only_base, line.only_new, f"{line.p:.2g}",
    )  # fmt: skip


def shown_number(row: Row, value: float) -> str:
    """A number with its unit."""
    return number_words(row.metric, value) + (" %" if is_percentage(row.metric) else "")
