"""`robench report`: one page of one run or many, and their tables for papers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from robench.cli import options as o
from robench.cli.console import print_message
from robench.core.errors import InputError

PAGE = Path("robench-report.html")  # where no file is named


def report_command(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Results folders, or folders of results folders.")],
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE.html", help=f"The page. Default: {PAGE}, if no table is asked for.")
    ] = None,
    columns: Annotated[
        list[str] | None,
        typer.Option("--columns", metavar="NAME[@KEY=VALUE]", help="Columns of the leaderboard; several by commas or repeated."),
    ] = None,
    published: Annotated[
        Path | None,
        typer.Option("--published", metavar="DIR", help="RobustBench's model_info, or a folder in it: its rows stand beside yours."),
    ] = None,
    base: Annotated[
        list[Path] | None,
        typer.Option(
            "--base",
            metavar="BASE",
            help="Compare the newest run with this one, or with the last ones below a folder; repeated, the latest last.",
        ),
    ] = None,
    last: Annotated[
        int | None, typer.Option("--last", metavar="N", help="How many runs of a folder given as --base count. Default: 7.")
    ] = None,
    gate: Annotated[
        list[str] | None,
        typer.Option(
            "--gate",
            metavar="GATE",
            help="What may not happen against BASE and from night to night, as --fail-on of compare; told on the page alone.",
        ),
    ] = None,
    alpha: Annotated[float, typer.Option("--alpha", help="The chance of any false alarm among the gates.")] = 0.05,
    data: Annotated[
        str | None,
        typer.Option(
            "--data", help="Your own data set, whose changed images are shown against BASE, as for eval: folder:PATH, file.py:function."
        ),
    ] = None,
    data_dir: Annotated[Path | None, typer.Option("--data-dir", help="Where torchvision's sets lie, whose images are shown.")] = None,
    latex: Annotated[Path | None, typer.Option("--latex", metavar="FILE", help="A table for papers, in LaTeX (booktabs).")] = None,
    markdown: Annotated[Path | None, typer.Option("--markdown", metavar="FILE", help="The same in Markdown.")] = None,
    csv: Annotated[Path | None, typer.Option("--csv", metavar="FILE", help="The same as CSV: one number a line.")] = None,
    robustbench: Annotated[
        Path | None, typer.Option("--robustbench", metavar="FILE", help="One run as a file of RobustBench's model_info.")
    ] = None,
    about: Annotated[
        list[str] | None,
        typer.Option("--about", metavar="KEY=VALUE", help="For --robustbench: name, authors, link, venue and the like; repeated."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace files that are there.")] = False,
    quiet: o.Quiet = False,
) -> None:
    """Writes one self-contained HTML page for one run or many, or tables of them for papers.

    Unfinished and unreadable runs below a folder are named and left out.

    Example: robench report results --out nights.html

    Example: robench report results --base results/release --gate "clean:drop>1%" --out nights.html

    Example: robench report results --columns clean,autoattack --latex table.tex --csv table.csv
    """
    from robench.core.files import write_whole
    from robench.report.page import write_page
    from robench.report.reporting import ReportOptions, gathered_runs, refuse_page_path, refuse_unused_columns, report_parts
    from robench.report.robustbench_files import PublishedRows, paper_facts, place_notes, published_rows, unfitting_notes, zoo_notes
    from robench.report.table_files import refuse_same_files, robustbench_bytes, table_texts

    tables = {name: path for name, path in {"latex": latex, "markdown": markdown, "csv": csv}.items() if path is not None}
    page = PAGE if out is None and not tables and robustbench is None else out
    asked = {**tables, **({"robustbench": robustbench} if robustbench else {}), **({"out": page} if page else {})}
    refuse_same_files({f"--{name}": path for name, path in asked.items()})
    for path in asked.values():
        refuse_page_path(path, force)
    if (base or gate or data_dir) and not page:
        raise InputError("--base, --gate and --data-dir belong to the page: name its file with --out, or leave them out")
    if data is not None and not base:
        raise InputError("--data is the data set of the images that changed against --base: name a base, or leave --data out")
    if last is not None and not base:
        raise InputError("--last counts the runs of the folder of --base: name it, or leave --last out")
    if (columns or published) and not page and not tables:
        raise InputError("--columns and --published belong to the page and the tables: name a file for one of them, or leave them out")
    if about and not robustbench:
        raise InputError("--about belongs to --robustbench: name its file, or leave it out")
    facts = paper_facts(about or [])
    found, left_out = gathered_runs(runs)
    beside = published_rows(published) if published else PublishedRows((), ())
    sentences = [*(entry.reason for entry in left_out), *beside.notes]
    for sentence in sentences:
        print_message(f"Left out: {sentence}", quiet)
    for note in [*unfitting_notes(found, beside.lines), *zoo_notes(found, beside.lines), *(place_notes(found) if robustbench else [])]:
        print_message(f"Note: {note}", quiet)
    if not tables:
        refuse_unused_columns(found, columns or (), beside.lines)
    texts = table_texts(found, tables, columns or (), beside.lines)
    texts |= {robustbench: robustbench_bytes(found, robustbench, facts)} if robustbench else {}
    options = ReportOptions(columns or (), beside.lines, base or (), gate or (), alpha, data_dir, last, data or "")
    title, parts = report_parts(found, sentences, options) if page else ("", [])
    written = [*(write_whole(texts) if texts else []), *([write_page(page, title, parts)] if page else [])]
    for path in written:
        print_message(f"Written: {path}", quiet)
