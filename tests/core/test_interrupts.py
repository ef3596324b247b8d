"""Ctrl-C and SIGTERM: what each raises, what is held back until a state is saved, and the exit codes."""

import os
import signal

import pytest

from robench.core.interrupts import Terminated, interruption_exit_code, interruptions, take_sigterm_as_interrupt


@pytest.fixture
def taken(monkeypatch):
    """The signals as `robench` takes them; afterwards as they were."""
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    take_sigterm_as_interrupt()
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def send(number):
    os.kill(os.getpid(), number)


@pytest.mark.usefixtures("taken")
def test_sigterm_ends_what_runs_as_ctrl_c_does_with_143():
    with pytest.raises(KeyboardInterrupt) as stop:
        send(signal.SIGTERM)
    assert isinstance(stop.value, Terminated)
    assert interruption_exit_code(stop.value) == 143
    send(signal.SIGTERM)  # a second one lets what is being saved be saved


@pytest.mark.usefixtures("taken")
def test_a_sigterm_after_ctrl_c_does_not_break_off_what_is_being_saved():
    with pytest.raises(KeyboardInterrupt) as stop:
        send(signal.SIGINT)
    assert interruption_exit_code(stop.value) == 130
    send(signal.SIGTERM)


@pytest.mark.usefixtures("taken")
@pytest.mark.parametrize(("first", "kind"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, Terminated)])
def test_both_are_held_back_between_two_steps_and_a_second_ctrl_c_is_not(first, kind):
    with interruptions(True) as interruption:
        assert interruption() is None
        send(first)
        assert type(interruption()) is kind
        send(signal.SIGTERM)
        assert type(interruption()) is kind
        with pytest.raises(KeyboardInterrupt):
            send(signal.SIGINT)
    send(signal.SIGTERM)


@pytest.mark.usefixtures("taken")
def test_where_ctrl_c_is_ignored_sigterm_is_held_back_all_the_same():
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    with interruptions(True) as interruption:
        send(signal.SIGINT)
        assert interruption() is None
        send(signal.SIGTERM)
        assert type(interruption()) is Terminated
    assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN


@pytest.mark.usefixtures("taken")
def test_afterwards_the_signals_are_as_they_were():
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    for wanted in (True, False):
        with interruptions(wanted):
            pass
        assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_several_processes_and_other_handlers_keep_theirs(monkeypatch):
    before = signal.getsignal(signal.SIGTERM)
    try:
        monkeypatch.setenv("WORLD_SIZE", "2")
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        take_sigterm_as_interrupt()
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
        monkeypatch.delenv("WORLD_SIZE")
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        take_sigterm_as_interrupt()
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGTERM, before)
