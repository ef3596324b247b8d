"""`write_report`: finished runs on one page."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from robench.core.errors import InputError
from robench.core.folders import OUR_FILES
from robench.report import page
from robench.report.leaderboard import BoardLine
from robench.results.saved_runs import FINISHED, RunFolder, SavedRun, run_folders, saved_run

MOST_REASONS = 3  # folders that are left out, in a sentence that says that none is left


def write_report(
    runs: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    columns: str | Sequence[str] = (),
    force: bool = False,
) -> Path:
    """Writes finished runs as one self-contained HTML page; returns its path.

    Args:
        runs: a results folder, a folder of results folders, or several of them.
        out: the HTML file.
        columns: of the leaderboard, such as "clean" or "autoattack@norm=l2", one or several.
        force: whether a file that is there already is replaced.

    Raises:
        InputError: one sentence, where a run that is named cannot be read, where there is none, and where the page cannot be written.

    Example:
        >>> import tempfile
        >>> from robench.data import load_images
        >>> images, model = load_images("shapes", "test", n=12), robench.load_model("checkpoints/shapes-cnn-pgd-at.pt")
        >>> folder = tempfile.mkdtemp()
        >>> _ = robench.attack(model, images, recipe="fgsm").save(f"{folder}/night")
        >>> robench.write_report(folder, f"{folder}/page.html").name
        'page.html'
    """
    named = [Path(runs)] if isinstance(runs, (str, os.PathLike)) else [*map(Path, runs)]
    path = Path(out)
    refuse_page_path(path, force)
    found, left_out = gathered_runs(named)
    title, parts = report_parts(found, left_out, [columns] if isinstance(columns, str) else columns)
    return page.write_page(path, title, parts)


def refuse_page_path(path: Path, force: bool) -> None:
    """InputError where a page cannot be written to a path, or would replace what it must not."""
    if path.is_dir():
        raise InputError(f"{path} is a folder: name the file of the page, such as {path / 'page.html'}")
    if path.name in OUR_FILES and (path.parent / "manifest.json").exists():
        raise InputError(f"{path} belongs to the run in {path.parent}: choose another name")
    if path.exists() and not force:
        raise InputError(f"{path} exists: pass --force to replace it, or choose another name")


def gathered_runs(paths: Sequence[Path]) -> tuple[list[SavedRun], list[RunFolder]]:
    """The finished runs in folders and below them, in order of their end, and those that are left out with the reason.

    A results folder that is named itself has to be finished and readable; of a folder of results folders the others are left out.

    Args:
        paths: results folders, and folders of them.

    Raises:
        InputError: for a folder that is named and cannot be read, and where no finished run is left.
    """
    found: dict[Path, SavedRun] = {}
    left_out: list[RunFolder] = []
    for path in paths:
        inner = run_folders(path)
        if [entry.folder for entry in inner] in ([], [path]):
            found[path.resolve()] = saved_run(path)
            continue
        for entry in inner:
            run = readable_run(entry)
            if isinstance(run, SavedRun):
                found[entry.folder.resolve()] = run
            else:
                left_out.append(run)
    if not found:
        reasons = "; ".join(entry.reason for entry in left_out[:MOST_REASONS])
        more = f"; and {len(left_out) - MOST_REASONS} more" if len(left_out) > MOST_REASONS else ""
        raise InputError(f"no finished run below {', '.join(map(str, paths))}: {reasons}{more}")
    return sorted(found.values(), key=lambda run: (run.finished, str(run.folder))), left_out


def readable_run(entry: RunFolder) -> SavedRun | RunFolder:
    """The run in a folder, or the folder with the reason why it cannot be read."""
    if entry.state != FINISHED:
        return entry
    try:
        return saved_run(entry.folder)
    except InputError as error:
        return RunFolder(entry.folder, "unreadable", str(error))


def report_parts(
    runs: Sequence[SavedRun],
    left_out: Sequence[RunFolder],
    columns: Sequence[str] = (),
    published: Sequence[tuple[str, BoardLine]] = (),
) -> tuple[str, list[page.Part]]:
    """The title and the parts of the page of one run or several."""
    from robench.report.run_parts import saved_run_parts, saved_run_title

    notes: list[page.Part] = [page.NoteBox(f"Left out: {entry.reason}") for entry in left_out]
    if len(runs) == 1 and not published:
        return saved_run_title(runs[0]), [*notes, *saved_run_parts(runs[0])]
    return f"{len(runs)} runs", [*notes, *many_run_parts(runs, columns, published)]


def many_run_parts(
    runs: Sequence[SavedRun], columns: Sequence[str], published: Sequence[tuple[str, BoardLine]]
) -> Iterator[page.Part]:  # fmt: skip
    """What the page of several runs shows."""
    from robench.report.board_parts import corruption_parts, leaderboard_parts
    from robench.report.leaderboard import leaderboards_of
    from robench.report.nights import history_parts, nights_of

    yield from leaderboard_parts(leaderboards_of(runs, columns, published))
    yield from history_parts(nights_of(runs), {})
    yield from corruption_parts(runs)
    yield page.Heading("The runs")
    yield runs_table(runs)


def runs_table(runs: Sequence[SavedRun]) -> page.DataTable:
    """What each run was, the newest first."""
    lines = [
        (
            run.folder.name, run.finished[:16].replace("T", " "), run.command, ", ".join(run.checkpoints), run.rows[0].data,
            max(row.n for row in run.rows), run.rows[0].seed, len(run.flags),
        )
        for run in reversed(runs)
    ]  # fmt: skip
    return page.DataTable(("run", "finished", "command", "models", "data", "images", "seed", "flags"), lines, name="runs")
