"""`robench compare`: a run against earlier ones, image by image, and the gates."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from robench.cli import options as o
from robench.cli.console import print_message, print_table, print_to_stderr
from robench.core.errors import InputError

if TYPE_CHECKING:
    from robench.report.comparison import Comparison

MOST_GATES = 30  # lines of the table of gates on a terminal
MOST_QUIET_GATES = 6  # gates that did not fall whose numbers are said


def compare_command(
    runs: Annotated[
        list[Path],
        typer.Argument(metavar="BASE... NEW", help="Results folders, the last one is NEW; or a folder of results folders, and NEW."),
    ],
    fail_on: Annotated[
        list[str] | None,
        typer.Option(
            "--fail-on",
            metavar="GATE",
            help="Exit code 1 on such a change: NAME:drop>1%, NAME:rise>0.02, NAME@KEY=VALUE:drop>1%, worst-class:drop>3%, flag:*; several"
            " by commas or repeated. Default: any change for the worse of the verdict (suite, last attack, or error under corruptions).",
        ),
    ] = None,
    alpha: Annotated[
        float, typer.Option("--alpha", help="The chance of any false alarm among all gates of the call (Holm's procedure).")
    ] = 0.05,
    last: Annotated[
        int | None, typer.Option("--last", help="Of a folder of results folders: compare NEW with the last so many before it. Default: 7.")
    ] = None,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit code 1 also where a gate with a tolerance cannot tell for want of images.")
    ] = False,
    out: Annotated[Path | None, typer.Option("--out", help="Folder for compare.csv. Default: it is not written.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Show a finished comparison of these runs again; nothing is written.")] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace the comparison in --out.")] = False,
    markdown: Annotated[Path | None, typer.Option("--markdown", help="File for the comparison as Markdown; replaced if it exists.")] = None,
    junit: Annotated[Path | None, typer.Option("--junit", help="File for the gates as JUnit XML; replaced if it exists.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="File for everything as JSON; replaced if it exists.")] = None,
    latex: Annotated[Path | None, typer.Option("--latex", help="File for the table of a paper; replaced if it exists.")] = None,
    quiet: o.Quiet = False,
) -> None:
    """Compares runs image by image; exit code 1 where something became worse by more than chance and more than is allowed.

    Each gate fell, held, or cannot tell (too few images: a warning, and with --strict exit code 1). In GitHub Actions the Markdown is
    appended to the step summary, and gates that fell become annotations.

    Models of a run that differ in the seed of their training alone are a group: its means are tested over images and over seeds.

    Exit codes: 0 no gate fell, 1 a gate fell (or, with --strict, cannot tell), 2 wrong input.

    Example: robench compare BASE NEW --fail-on "autoattack:drop>1%" --fail-on "clean:drop>0.5%"

    Example: robench compare results results/NIGHT --last 5
    """
    from robench.report.comparison import compare as compared

    if len(runs) < 2:
        raise typer.BadParameter("two runs are compared: name the results folder BASE and then NEW", param_hint="BASE... NEW")
    files = {"--markdown": markdown, "--junit": junit, "--json": json_file, "--latex": latex}
    refuse_bad_files(files, out)
    found = compared(runs[:-1], runs[-1], fail_on or (), alpha, last)
    message = save_comparison(out, found, resume, force)
    write_files(files, found, strict)
    print_comparison(found, quiet)
    for note in found.notes:
        print_message(f"Note: {note}", quiet)
    print_message(message, quiet or not message)
    print_what_held(found, quiet)
    exit_if_gates_failed(found, strict)


def refuse_bad_files(files: Mapping[str, Path | None], out: Path | None) -> None:
    """Raises InputError for a file that is none, lies in no folder, is named twice, or belongs to a run; and for such a folder."""
    from robench.core.files import is_existing_path
    from robench.results.saved_runs import refuse_output_file, refuse_output_folder

    if out is not None:
        refuse_output_folder(out)
    named = {option: path for option, path in files.items() if path is not None}
    for option, path in named.items():
        refuse_output_file(path, out)
        is_own = out is not None and path.parent.resolve() == out.resolve()
        if not is_own and not (is_existing_path(path.parent) and path.parent.is_dir()):
            raise InputError(f"{option} {path}: there is no folder {path.parent}")
    if len({path.resolve() for path in named.values()}) < len(named):
        raise InputError(f"{' and '.join(named)} name one file: choose another for each")


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
                write_comparison(folder, found.all_lines())
    return f"This comparison is finished, and nothing was changed: {out}" if place.finished else f"Written: {out / 'compare.csv'}"


def write_files(files: Mapping[str, Path | None], found: Comparison, strict: bool) -> None:
    """Writes the files that were asked for, all or none, and what GitHub shows where it runs the command."""
    from robench.core.files import write_whole
    from robench.report import comparison_files as texts

    contents = {
        "--markdown": lambda: texts.comparison_markdown(found).encode(),
        "--junit": lambda: texts.comparison_junit(found, strict),
        "--json": lambda: texts.json_text(found).encode(),
        "--latex": lambda: texts.comparison_latex(found).encode(),
    }
    if named := {path: contents[option]() for option, path in files.items() if path is not None}:
        write_whole(named)
    if summary := os.environ.get("GITHUB_STEP_SUMMARY"):
        append_summary(Path(summary), texts.comparison_markdown(found))
    if os.environ.get("GITHUB_ACTIONS"):
        for annotation in texts.github_annotations(found, strict):
            typer.echo(annotation)


def append_summary(path: Path, text: str) -> None:
    """Appends to the step summary of a workflow; a summary that cannot be written does not hide the verdict."""
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        print_to_stderr(f"Note: the step summary {path} cannot be written: {error.strerror or error}")


def print_comparison(found: Comparison, quiet: bool) -> None:
    """Prints the rows model by model, and what the gates say."""
    from robench.report import comparison_files as texts

    level = f"{100 * (1 - found.interval_alpha):g} % interval"
    columns = ("probe", "BASE %", "NEW %", "change", level, "lost", "won", "p")
    several, name_of = texts.has_several_models(found), texts.row_names(found)
    shown = texts.headline_lines(found)
    for model in dict.fromkeys(line.new_checkpoint for _, line in shown):
        cells = [texts.line_cells(line, name_of(one.row)) for one, line in shown if line.new_checkpoint == model]
        print_table(f"{model}: {texts.runs_title(found)}" if several else texts.runs_title(found), columns, cells)
    more = len(found.pairs[-1].compared) - len(shown)
    if more:
        print_message(f"{more} rows of single levels and classes are compared too: see --out, --json, or name them in a gate.", quiet)
    if found.seed_lines:
        first = found.seed_lines[0]
        title = f"over training seeds: {first.new_group} against {first.base_group}; {'; '.join(texts.seed_sentences(found))}"
        print_table(title, texts.SEED_HEADER, texts.seed_table(found))
    results = found.gates[:MOST_GATES]
    print_table(
        f"gates: {texts.family_sentence(found)}", ("gate", "row", "verdict", "p"),
        [
            (one.gate.sentence, texts.result_row_text(one, several, name_of), one.verdict, texts.adjusted_text(one)) for one in results
        ], word_columns=3,
    )  # fmt: skip
    if len(found.gates) > MOST_GATES:
        print_message(f"{len(found.gates) - MOST_GATES} more lines of gates are in --json and --junit.", quiet)


def print_what_held(found: Comparison, quiet: bool) -> None:
    """Says the numbers of the gates that did not fall, where they are few."""
    from robench.results.gates import HELD, NOT_FELL

    results = [one for one in found.gates if one.verdict in (HELD, NOT_FELL) and one.compared is not None]
    for result in results[:MOST_QUIET_GATES]:
        print_message(f"{result.verdict.capitalize()}: {result.sentence}.", quiet)
    if len(results) > MOST_QUIET_GATES:
        print_message(f"{len(results) - MOST_QUIET_GATES} more did not fall: their numbers are in --json and --junit.", quiet)


def exit_if_gates_failed(found: Comparison, strict: bool) -> None:
    """Says what each gate that fell or cannot tell found, and ends with exit code 1 where one fell, or with `strict` cannot tell."""
    for sentence in found.failures:
        print_to_stderr(f"Failed: {sentence}.")
    for sentence in found.warnings:
        print_to_stderr(f"{'Failed' if strict else 'Warning'}: {sentence}.")
    if found.failures or (strict and found.warnings):
        raise typer.Exit(1)
