"""`robench report`: one page of one run or many."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from robench.cli import options as o
from robench.cli.console import print_message


def report_command(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Results folders, or folders of results folders.")],
    out: Annotated[Path, typer.Option("--out", metavar="FILE.html", help="The page.")] = Path("robench-report.html"),
    columns: Annotated[
        list[str] | None,
        typer.Option("--columns", metavar="NAME[@KEY=VALUE]", help="Columns of the leaderboard; several by commas or repeated."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace the file of --out.")] = False,
    quiet: o.Quiet = False,
) -> None:
    """Writes one self-contained HTML page for one run or many.

    Unfinished and unreadable runs below a folder are named and left out.

    Example: robench report results --out nights.html
    """
    from robench.report.page import write_page
    from robench.report.reporting import gathered_runs, refuse_page_path, report_parts

    refuse_page_path(out, force)
    found, left_out = gathered_runs(runs)
    for entry in left_out:
        print_message(f"Left out: {entry.reason}", quiet)
    title, parts = report_parts(found, left_out, columns or ())
    print_message(f"Written: {write_page(out, title, parts)}", quiet)
