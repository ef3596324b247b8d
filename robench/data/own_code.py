"""Functions of the user's own that read data: whatever they raise becomes one sentence."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from traceback import extract_tb
from typing import Any

from robench.core.errors import InputError


def own_result(label: str, function: Callable[..., Any], *values: object) -> Any:
    """What a function returns for these values.

    Args:
        label: what sentences call the function, such as "mine.py:digits"; errors of a function in the package (no ".py:") are raised as
            they are.
        function: the function, with its options bound.
        values: what it is called with, by place.

    Raises:
        InputError: in place of an exception of the user's function, with the line that failed.
    """
    try:
        return function(*values)
    except (Exception, SystemExit) as error:
        if isinstance(error, InputError) or ".py:" not in label:
            raise
        file = label.partition(":")[0]
        lines = [frame.lineno for frame in extract_tb(error.__traceback__) if Path(frame.filename).name == file]
        where = f" in line {lines[-1]}" if lines else ""
        raise InputError(f"{label} failed{where}: {type(error).__name__}: {' '.join(str(error).split())}") from error
