"""`robench compare`: two results folders, image by image, and the gate."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from robench.cli import options as o
from robench.cli.console import print_message, print_table, print_to_stderr
from robench.core.errors import InputError
from robench.report.tables import percent

if TYPE_CHECKING:
    from robench.report.comparison import Comparison
    from robench.results.compare import ComparisonLine


def compare_command(
    base: Annotated[Path, typer.Argument(metavar="BASE", help="Results folder of 'robench eval' or 'robench attack'.")],
    new: Annotated[Path, typer.Argument(metavar="NEW", help="Another, of the same images and probes.")],
    fail_on: Annotated[
        list[str] | None,
        typer.Option(
            "--fail-on",
            metavar="PROBE:drop[>X%]",
            help="Exit code 1 on such a drop; several by commas or repeated. Default: any drop of the verdict (suite or last probe).",
        ),
    ] = None,
    alpha: Annotated[float, typer.Option("--alpha", help="A drop counts if its McNemar p value is at most this.")] = 0.05,
    out: Annotated[Path | None, typer.Option("--out", help="Folder for compare.csv. Default: it is not written.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Show a finished comparison of these runs again; nothing is written.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace the comparison in --out.")] = False,
    quiet: o.Quiet = False,
) -> None:
    """Compares two evaluations image by image; exit code 1 where accuracy fell by more than chance and more than is allowed.

    Example: robench compare BASE NEW --fail-on "autoattack:drop>1%"
    """
    from robench.report.comparison import compare as compared

    comparison = compared(base, new, fail_on or (), alpha)
    message = save_comparison(out, comparison, resume, force)
    models = list(dict.fromkeys((line.base_checkpoint, line.new_checkpoint) for line in comparison.lines))
    for pair in models:
        pair_lines = [line for line in comparison.lines if (line.base_checkpoint, line.new_checkpoint) == pair]
        print_comparison(f"{pair[0]}: {new} against {base}" if len(models) > 1 else f"{new} against {base}", pair_lines)
    for note in comparison.notes:
        print_message(f"Note: {note}", quiet)
    print_message(message, quiet or not message)
    exit_if_gates_failed(comparison.failures)


def save_comparison(out: Path | None, found: Comparison, resume: bool, force: bool) -> str:
    """Writes compare.csv into a folder, if one is named; what was done, in words."""
    from robench.core.folders import claim_destination
    from robench.results.compare import write_comparison

    if out is None:
        if resume or force:
            raise InputError("--resume and --force belong to the folder of --out: name one, or leave them out")
        return ""
    with claim_destination(out, found.manifest_identity(), resume=resume, force=force) as place:
        if not place.finished:
            with place.staged_results() as folder:
                write_comparison(folder, found.lines)
    return f"This comparison is finished, and nothing was changed: {out}" if place.finished else f"Written: {out / 'compare.csv'}"


def print_comparison(title: str, lines: Sequence[ComparisonLine]) -> None:
    """Prints one line a probe: both accuracies, the change in points, the images that NEW lost and won, McNemar's p value."""
    from robench.core.recipes import eps_text
    from robench.core.rows import WORST_NORM
    from robench.results.compare import attack_radii

    last = lines[-1]
    norms = [norm for norm in dict.fromkeys(line.norm for line in lines) if norm not in ("", WORST_NORM)]
    threats = [f"{norm} eps = {', '.join(map(eps_text, attack_radii([line for line in lines if line.norm == norm])))}" for norm in norms]
    several = len({(line.norm, line.eps) for line in lines if line.norm}) > 1
    columns = ("probe", "BASE %", "NEW %", "change", "95 % interval", "lost", "won", "p")

    def name(line: ComparisonLine) -> str:
        if not several or not line.norm:
            return line.probe
        norm = [line.norm] * (len(norms) > 1)
        return " ".join([line.probe, *norm, *([eps_text(line.eps)] if line.norm != WORST_NORM else [])])

    print_table(f"{title}: {', '.join([f'{last.data} {last.split}', f'n = {last.n}', '; '.join(threats)])}", columns, [
        (
            name(line), percent(line.base), percent(line.new), signed_points(line.difference),
            f"{100 * line.low:.1f}, {100 * line.high:.1f}", str(line.only_base), str(line.only_new), p_value_text(line.p),
        )
        for line in lines
    ])  # fmt: skip


def signed_points(difference: float) -> str:
    """A difference of fractions in points, with its sign; nothing changed has none."""
    return f"{100 * difference:+.2f}" if difference else "0.00"


def p_value_text(p: float) -> str:
    """A p value in six characters at most."""
    return f"{p:.2g}" if p >= 0.001 or not p else f"{p:.0e}"


def exit_if_gates_failed(sentences: Sequence[str]) -> None:
    """Ends with exit code 1 and a sentence for each gate that failed; says nothing where none did."""
    for sentence in sentences:
        print_to_stderr(f"Failed: {sentence}.")
    if sentences:
        raise typer.Exit(1)
