"""What is said where a command ends in a way that nobody foresaw: whose fault the traceback shows."""

from __future__ import annotations

import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path
from traceback import FrameSummary, extract_tb

PACKAGE_FOLDER = Path(__file__).resolve().parents[1]


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
