"""How a command is stopped from outside: Ctrl-C, and SIGTERM, which job schedulers send some seconds before they kill."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


class Terminated(KeyboardInterrupt):
    """SIGTERM was sent: what runs ends as at Ctrl-C, with exit code 143 in place of 130."""


def interruption_exit_code(stop: KeyboardInterrupt) -> int:
    """The exit code of a command that was stopped: 128 and the number of the signal, as shells count.

    Args:
        stop: what was raised.
    """
    return 128 + (signal.SIGTERM if isinstance(stop, Terminated) else signal.SIGINT)


def end_as_interrupted(number: int, frame: Any) -> None:  # noqa: ARG001 - the signature of a handler
    """The handler of SIGINT and SIGTERM: raises, and lets a later SIGTERM pass, so that what is being saved is saved."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise Terminated if number == signal.SIGTERM else KeyboardInterrupt


def take_sigterm_as_interrupt() -> None:
    """From now on SIGTERM stops this process as Ctrl-C does.

    All stays as it is where several processes share a run (one that waits for another could not answer), where the signal is ignored,
    and outside the main thread.
    """
    if threading.current_thread() is not threading.main_thread() or int(os.environ.get("WORLD_SIZE", "1")) > 1:
        return
    if signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        signal.signal(signal.SIGTERM, end_as_interrupted)
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, end_as_interrupted)


@contextmanager
def interruptions(wanted: bool) -> Iterator[Callable[[], KeyboardInterrupt | None]]:
    """Holds Ctrl-C back, and SIGTERM where `take_sigterm_as_interrupt` has taken it; a second Ctrl-C interrupts at once.

    Args:
        wanted: whether they are held back at all; they are not outside the main thread, and an ignored Ctrl-C stays ignored.

    Returns:
        A context that gives a function: what is to be raised once one of them came, None before.
    """
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    held_back = [number for number, handler in before.items() if handler is end_as_interrupted]
    if signal.SIGINT not in held_back and before[signal.SIGINT] is not signal.SIG_IGN:
        held_back.append(signal.SIGINT)
    if not wanted or threading.current_thread() is not threading.main_thread():
        held_back = []
    came: list[KeyboardInterrupt] = []

    def hold(number: int, frame: Any) -> None:  # noqa: ARG001 - the signature of a handler
        came.append(Terminated() if number == signal.SIGTERM else KeyboardInterrupt())
        for one in held_back:  # what is being saved is saved, unless a person insists
            signal.signal(one, before[one] if one == signal.SIGINT else signal.SIG_IGN)

    for number in held_back:
        signal.signal(number, hold)
    try:
        yield lambda: came[0] if came else None
    finally:
        for number in held_back:
            signal.signal(number, signal.SIG_IGN if came and number == signal.SIGTERM else before[number])
