"""`write_report`: finished runs on one page."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from robench.core.errors import InputError
from robench.report import page
from robench.report.base_parts import comparison_parts
from robench.report.board_parts import seed_parts
from robench.report.comparison import compare
from robench.report.leaderboard import leaderboards_of
from robench.report.night_verdicts import refuse_idle_gates
from robench.report.nights import nights_of
from robench.report.overview import PublishedLines, overview_parts
from robench.report.robustbench_files import PublishedRows, published_rows, unfitting_notes, zoo_notes
from robench.report.run_parts import saved_run_parts, saved_run_title
from robench.results.gates import parse_gates
from robench.results.saved_runs import FINISHED, RunFolder, SavedRun, refuse_output_file, run_folders, saved_run

MOST_REASONS = 3  # folders that are left out, in a sentence that says that none is left


@dataclass(frozen=True)
class ReportOptions:
    """What a page shows besides the runs themselves.

    Attributes:
        columns: of the leaderboard, such as "clean" or "autoattack@norm=l2"; () for the usual ones.
        published: data set and line of the published models that stand beside the user's own.
        bases: results folders with which the newest run is compared, the latest last, or one folder of them; () without.
        gates: what may not happen against the base and from night to night, as `results.gates.parse_gates` reads them; () for any change
            of the verdict for the worse.
        alpha: the chance of any false alarm among the gates, in (0, 1].
        data_dir: where torchvision's sets lie, whose images are shown; ./data if not given.
        data: the data set of the changed images in the user's own words, as for `robench eval --data`; "" for that of the manifest.
        last: how many runs of a folder of folders count as bases; 7 if not given.
    """

    columns: Sequence[str] = ()
    published: PublishedLines = ()
    bases: Sequence[Path] = ()
    gates: Sequence[str] = ()
    alpha: float = 0.05
    data_dir: Path | None = None
    last: int | None = None
    data: str = ""

    @property
    def single_gates(self) -> list[str]:
        """The gates, those that were joined by commas apart."""
        return [gate for words in self.gates for gate in words.split(",") if gate.strip()]


def write_report(
    runs: str | os.PathLike[str] | Sequence[str | os.PathLike[str]],
    out: str | os.PathLike[str],
    *,
    columns: str | Sequence[str] = (),
    published: str | os.PathLike[str] | None = None,
    base: str | os.PathLike[str] | Sequence[str | os.PathLike[str]] | None = None,
    gates: str | Sequence[str] = (),
    alpha: float = 0.05,
    data_dir: str | os.PathLike[str] | None = None,
    last: int | None = None,
    data: str = "",
    force: bool = False,
) -> Path:
    """Writes finished runs as one self-contained HTML page; returns its path.

    Args:
        runs: a results folder, a folder of results folders, or several of them.
        out: the HTML file.
        columns: of the leaderboard, such as "clean" or "autoattack@norm=l2", one or several.
        published: a folder of RobustBench's model_info files, whose rows stand beside the user's own in the leaderboard.
        base: a results folder with which the newest run is compared, several of them, the latest last, or a folder of them.
        gates: what may not happen against the base and from night to night, as in `report.comparison.compare`.
        alpha: the chance of any false alarm among the gates, in (0, 1].
        data_dir: where torchvision's sets lie, whose images are shown; ./data if not given.
        data: the data set of the changed images, as `load_images` takes it, where it is your own: a function in a file is run.
        last: how many runs of a folder given as base count; 7 if not given.
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
    beside = PublishedRows((), ()) if published is None else published_rows(Path(published))
    bases = [] if base is None else [Path(base)] if isinstance(base, (str, os.PathLike)) else [*map(Path, base)]
    lists = [[words] if isinstance(words, str) else words for words in (columns, gates)]
    asked = ReportOptions(lists[0], beside.lines, bases, lists[1], alpha, None if data_dir is None else Path(data_dir), last, data)
    refuse_unused_columns(found, asked.columns, asked.published)
    title, parts = report_parts(found, [*(entry.reason for entry in left_out), *beside.notes], asked)
    return page.write_page(path, title, parts)


def refuse_page_path(path: Path, force: bool) -> None:
    """InputError where a page cannot be written to a path, would lie in the folder of a run, or replace what it must not.

    Args:
        path: the file that is to be written.
        force: whether a file that is there may be replaced.
    """
    refuse_output_file(path)
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


def report_parts(runs: Sequence[SavedRun], left_out: Sequence[str], asked: ReportOptions) -> tuple[str, list[page.Part]]:
    """The title and the parts of the page of one run or several.

    Args:
        runs: finished runs, the newest last.
        left_out: why some runs and published rows are not shown, a sentence each.
        asked: what else is asked for.

    Raises:
        InputError: for gates that cannot be read, for a base that the newest run cannot be compared with, and for columns that no run has.
    """
    if isinstance(asked.alpha, bool) or not isinstance(asked.alpha, (int, float)) or not 0 < asked.alpha <= 1:
        raise InputError(f"alpha (--alpha) must be a number above 0 and at most 1, not {asked.alpha!r}")
    parse_gates(asked.single_gates)  # refuses what cannot be read, also where there is nothing to compare
    if asked.single_gates and not asked.bases:
        refuse_idle_gates(nights_of(runs), asked.single_gates)
    compared = list(newest_against_bases(runs[-1], asked)) if asked.bases else []
    notes: list[page.Part] = [page.NoteBox(f"Left out: {sentence}") for sentence in left_out]
    notes += [page.NoteBox(note) for note in unfitting_notes(runs, asked.published) + zoo_notes(runs, asked.published)]
    if len(runs) == 1 and not asked.published:
        groups = [part for board in leaderboards_of(runs) for part in seed_parts(board)]
        return saved_run_title(runs[0]), [*saved_run_parts(runs[0], compared), *groups, *notes]
    title = f"{len(runs)} runs" if len(runs) > 1 else saved_run_title(runs[0])
    return title, [*overview_parts(runs, asked.columns, asked.published, asked.single_gates, asked.alpha, compared), *notes]


def newest_against_bases(run: SavedRun, asked: ReportOptions) -> Iterator[page.Part]:
    """What is shown of the newest run against its bases."""
    found = compare(asked.bases, run.folder, asked.single_gates, asked.alpha, asked.last)
    yield from comparison_parts(found, asked.data_dir, asked.data)


def refuse_unused_columns(runs: Sequence[SavedRun], columns: Sequence[str], published: PublishedLines) -> None:
    """InputError where a user chose columns of a leaderboard, and the page has none.

    Args:
        runs: finished runs.
        columns: what the user chose; () for the usual ones.
        published: the data set and the line of each published model.
    """
    if columns and len(runs) == 1 and not published:
        raise InputError("the page of one run has no leaderboard, whose columns (--columns) could be chosen: name several runs, or a table")
