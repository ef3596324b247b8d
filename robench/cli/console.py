"""What a person sees: tables on stdout, messages and progress on stderr, and whose fault an unexpected error is."""

from __future__ import annotations

import codecs
import io
import math
import sys
import sysconfig
import time
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from traceback import FrameSummary, extract_tb
from typing import TYPE_CHECKING, TextIO

from rich.console import Console
from rich.table import Table as RichTable
from rich.text import Text

from robench.core.errors import CONTROLS
from robench.report.tables import percent

if TYPE_CHECKING:
    from torch import Tensor

    from robench.runs.costs import RunCosts
    from robench.runs.types import Track
    from robench.training.types import Epoch, Event, EventWatcher

PACKAGE_FOLDER = Path(__file__).resolve().parents[1]


class PipeConsole(Console):
    """A console whose reader may leave early (`| head`): that ends with 141, as a shell calls it, and not with the 1 of a failed gate."""

    def on_broken_pipe(self) -> None:
        """Ends the process, quietly."""
        try:
            super().on_broken_pipe()
        except SystemExit:
            sys.exit(141)


out = PipeConsole(highlight=False, emoji=False)  # ":factory:" is no picture
err = PipeConsole(stderr=True, highlight=False, emoji=False)


def reconfigure_streams(*streams: TextIO) -> None:
    """Lets streams that cannot spell a letter, such as an ASCII stdout, write the nearest one that they can."""
    codecs.register_error("nearest", nearest_letters)
    for stream in streams:
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="nearest")


def nearest_letters(error: UnicodeError) -> tuple[str, int]:
    """What stands for letters that an encoding lacks: a plain space or the letter without its accent, else a question mark."""
    assert isinstance(error, UnicodeEncodeError)
    wrong = error.object[error.start : error.end]
    plain = unicodedata.normalize("NFKD", wrong).encode("ascii", "ignore").decode()
    return plain or "?" * len(wrong), error.end


def print_to_stderr(sentence: str) -> None:
    """Writes one sentence to stderr, as it is."""
    err.print(sentence.translate(CONTROLS), markup=False, soft_wrap=True)


def print_sentence(sentence: str) -> None:
    """Writes one sentence to stdout, as it is: a result in words."""
    out.print(sentence, markup=False, soft_wrap=True)


def print_table(title: str, columns: Sequence[str], lines: Iterable[Sequence[str]], word_columns: int = 1, whole: bool = False) -> None:
    """Prints a title and a table to stdout.

    Args:
        title: line above the table.
        columns: names of the columns.
        lines: one sequence of texts a line, as long as `columns`.
        word_columns: number of columns at the left that hold words; the others hold numbers.
        whole: whether no line is broken off a terminal, however long, so that grep finds it.
    """
    out.print(title.translate(CONTROLS), markup=False, soft_wrap=True)
    table = RichTable()
    for place, column in enumerate(columns):
        table.add_column(column, justify="left" if place < word_columns else "right", overflow="fold", no_wrap=whole and not place)
    for line in lines:
        table.add_row(*(Text(cell.translate(CONTROLS)) for cell in line))  # Text: no markup is read in brackets
    (PipeConsole(highlight=False, emoji=False, width=1000) if whole and not out.is_terminal else out).print(table)


def print_costs(costs: RunCosts, title: str, budget: float | None, quiet: bool) -> None:
    """Prints the table of what a run will cost, what a budget is enough for and, unless quiet, how that is to be read.

    Args:
        costs: of the run.
        title: line above the table.
        budget: seconds of --budget, or None.
        quiet: whether only the result is wanted.
    """
    from robench.report.cost_tables import cost_sentences, cost_table, reading_help

    print_table(*cost_table(costs, title))
    for sentence in cost_sentences(costs, budget):
        print_sentence(sentence)
    for note in reading_help(costs):
        print_message(f"Note: {note}", quiet)


def is_progress_shown(quiet: bool) -> bool:
    """Whether progress is drawn: on a terminal, unless told to be quiet."""
    return err.is_terminal and not quiet


def image_progress(quiet: bool) -> Track:
    """Shows on stderr how many images of each attack, probe or method are done: a bar on a terminal, and a line at the end also off one."""

    def bar(chunks: Sequence[Tensor], what: str, told: Callable[[], str | None] = lambda: None) -> Iterable[Tensor]:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

        columns = (
            TextColumn("{task.description}"),
            BarColumn(24),
            MofNCompleteColumn(),
            TextColumn("images,"),
            TimeElapsedColumn(),
            TextColumn("gone, left"),
            TimeRemainingColumn(),
        )
        n, begin = sum(map(len, chunks)), time.perf_counter()
        with Progress(*columns, console=err, transient=True, disable=not is_progress_shown(quiet)) as progress:
            task = progress.add_task(f"{what:<12}", total=n)
            for chunk in chunks:
                yield chunk
                progress.advance(task, len(chunk))
        sentence = told()
        print_message(
            f"{what}: {n} image{'s' * (n != 1)}, {time.perf_counter() - begin:.1f} s" if sentence is None else sentence,
            quiet or sentence == "" or (sentence is None and not n),
        )

    return bar


def training_progress(quiet: bool) -> EventWatcher:
    """Wraps the events of a training: a live line with loss terms, rate and time left, and one line for every finished epoch."""

    def follow(events: Iterator[Event], epochs: int) -> Iterator[Event]:
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

        from robench.training.types import Step, TrackerFailure, TrainingNote

        columns = (
            TextColumn("{task.description}"),
            BarColumn(24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
        )
        with Progress(*columns, console=err, transient=True, disable=not is_progress_shown(quiet)) as bar:
            task, begin = bar.add_task("training", total=None, rate=""), time.perf_counter()
            for event in events:
                if isinstance(event, Step):
                    done = event.epoch * event.steps + event.step + 1
                    rate = f"{done * event.images / (time.perf_counter() - begin):,.0f} images/s, left"
                    text = f"epoch {event.epoch + 1}/{epochs}  {terms_text(event.terms)}"
                    bar.update(task, description=text, completed=done, total=epochs * event.steps, rate=rate)
                elif not quiet or isinstance(event, TrackerFailure):
                    line = f"Note: {event.sentence}" if isinstance(event, TrainingNote) else epoch_line(event, epochs)
                    bar.console.print(line, markup=False, soft_wrap=True)
                yield event

    return follow


@contextmanager
def task_table(what: str, names: Sequence[str], quiet: bool) -> Iterator[Callable[[Mapping[str, str]], None] | None]:
    """A live table on stderr of tasks that run side by side, on a terminal; gives the function that is shown their last words, or None.

    Args:
        what: head of the column of names: "cell" or "model".
        names: of the tasks.
        quiet: whether nothing is drawn.
    """
    if not is_progress_shown(quiet):
        yield None
        return
    from rich.live import Live

    with Live(console=err, transient=True, refresh_per_second=2) as live:

        def show(words: Mapping[str, str]) -> None:
            table = RichTable(what, "state")
            for name in names:
                table.add_row(Text(name.translate(CONTROLS)), Text(words.get(name, "waits").translate(CONTROLS)))
            live.update(table)

        show({})
        yield show


def terms_text(values: dict[str, float]) -> str:
    """The terms of a loss in one line."""
    return "  ".join(f"{name} {value:.3g}" for name, value in values.items())


def epoch_line(epoch: Epoch, epochs: int) -> str:
    """One finished epoch in one line; beside the accuracies under attack stands the clean one of the same images."""
    fgsm = "" if math.isnan(epoch.held_out_fgsm) else f"FGSM {percent(epoch.held_out_fgsm)} %, "
    few = f"attacked {epoch.held_out_attacked_n}: clean {percent(epoch.held_out_attacked_clean)} %, {fgsm}"
    held_out_text = (
        f"held-out clean {percent(epoch.held_out_clean)} % of {epoch.held_out_n}, {few}PGD-10 {percent(epoch.held_out_robust)} %"
    )
    slopes = f"margin {epoch.held_out_margin:.3g}, weight norm {epoch.held_out_weight_norm:.3g}"
    alarm = f"  ALARM: {epoch.alarm}" if epoch.alarm else ""
    return f"epoch {epoch.epoch + 1}/{epochs}  {terms_text(epoch.terms)}  {held_out_text}, {slopes}  {epoch.seconds:.1f} s{alarm}"


def print_message(sentence: str, quiet: bool = False) -> None:
    """A message on stderr, unless quiet."""
    if not quiet:
        print_to_stderr(sentence)


def error_origin(error: BaseException) -> str:
    """One sentence on an unexpected error: a bug of ours, an error in the user's own code (with file and line), or the system's word.

    The innermost line of the traceback that belongs to robench or to the user decides, as libraries only do what they are told.
    """
    if isinstance(error, OSError) and error.strerror:
        where = f" ({error.filename})" if error.filename else ""
        return f"The operating system refused: {error.strerror}{where}. That is neither a bug of robench nor of your code."
    frames = list(relevant_frames(error))
    theirs = [frame for frame in frames if not is_robench_frame(frame)]
    if theirs and frames[-1] is theirs[-1]:
        return f"This error was raised in your own code: {frame_text(theirs[-1])}."
    last = f" ({frame_text(frames[-1])})" if frames else ""
    if theirs:
        return f"This error was raised in robench{last}, called by your own code: {frame_text(theirs[-1])}. One of the two is wrong."
    if files := user_file_names():
        return (
            f"This error was raised in robench{last}: a bug of ours, unless {', '.join(files)} gave it something else than docs/ ask for."
        )
    return f"This is a bug of robench{last}: please report it with the lines above."


def relevant_frames(error: BaseException) -> Iterator[FrameSummary]:
    """The lines of the traceback that are robench's or the user's, the innermost last: no interpreter, library or compiled code."""
    libraries = [Path(path).resolve() for path in {*sysconfig.get_paths().values(), sys.prefix, sys.base_prefix}]
    for frame in extract_tb(error.__traceback__):
        path = Path(frame.filename).resolve()
        foreign = (
            {"site-packages", "dist-packages"} & set(path.parts)
            or "torchinductor" in str(path)
            or any(path.is_relative_to(folder) for folder in libraries)
        )
        if is_robench_frame(frame) or not (frame.filename.startswith("<") or foreign):
            yield frame


def is_robench_frame(frame: FrameSummary) -> bool:
    """Whether a line of a traceback is robench's."""
    return Path(frame.filename).resolve().is_relative_to(PACKAGE_FOLDER)


def frame_text(frame: FrameSummary) -> str:
    """A line of a traceback as people say it."""
    return f"{Path(frame.filename).name}, line {frame.lineno}, in {frame.name}"


def user_file_names() -> list[str]:
    """The files of the user's that were run in this process."""
    from robench.core.recipes import USER_MODULE_PREFIX

    return [Path(module.__file__).name for name, module in sys.modules.items() if name.startswith(USER_MODULE_PREFIX) and module.__file__]


def exits_by_user(error: SystemExit) -> bool:
    """Whether own code of the user's called sys.exit: the command has not done its work then, whatever the code says."""
    frames = list(relevant_frames(error))
    return bool(frames) and not is_robench_frame(frames[-1])
