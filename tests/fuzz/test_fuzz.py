"""Mutated files against every reader, some hundred here; `tests/fuzz/fuzz.py` says what is watched, and runs thousands."""

import tempfile

import fuzz
import pytest
from run_readers import READERS

QUICK, SLOW = 12, 60  # files of each reader
SEED = 0


@pytest.mark.parametrize("name", READERS)
def test_a_mutated_file_is_read_or_refused_and_does_nothing_else(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", None)
    result = fuzz.run_reader(name, QUICK, SEED, show=False)
    assert result["faults"] == []
    assert result["accepted"] + result["refused"] == QUICK


@pytest.mark.slow
@pytest.mark.parametrize("name", READERS)
def test_many_mutated_files_are_read_or_refused_within_the_bound_of_memory(name):
    result = fuzz.reader_process(name, SLOW, SEED + 1)
    assert result["faults"] == []


def test_the_watch_sees_code_writes_elsewhere_memory_and_tracebacks(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", None)
    watch = fuzz.watch()
    watch.allowed = (str(tmp_path / "case"),)
    with watch.on() as seen:
        exec(compile("1", "of the file", "exec"))
        (tmp_path / "keep.txt").write_text("gone")
    assert seen == ["code ran: of the file", f"open {tmp_path / 'keep.txt'}"]

    def careless(folder):
        raise KeyError(folder.name)

    assert fuzz.outcome(careless, tmp_path / "case")[0] == "fault"
    before = fuzz.resident("VmRSS")
    fuzz.reset_peak()
    kept = b"1" * (200 * 2**20)
    assert kept
    assert fuzz.resident("VmHWM") - before > 150
