"""Who is asked before code of the user's own is run: nobody where the user names the code, the reader of an untrusted file that does."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

ASKED: list[Callable[[str], None]] = []  # the functions that are asked at present


@contextmanager
def asked_before_code(ask: Callable[[str], None]) -> Iterator[None]:
    """Has a function asked before any code of the user's own is run inside.

    Args:
        ask: ask(reference) raises an error where the code must not be run; `reference` is "file.py:function", "module:function", or the
            path of a stored program.

    Example:
        >>> told = []
        >>> with asked_before_code(told.append):
        ...     ask_before_code("mine.py:attack")
        >>> told
        ['mine.py:attack']
    """
    ASKED.append(ask)
    try:
        yield
    finally:
        ASKED.remove(ask)


def ask_before_code(reference: str) -> None:
    """Asks whether code may be run; does nothing where nobody is to be asked. To be called wherever code of the user's own begins to run.

    Args:
        reference: what names the code.

    Raises:
        InputError: where it must not be run.
    """
    for ask in ASKED:
        ask(reference)
