"""The state of a run on the disk: every finished line survives, a torn one does not, and no other run can take it up."""

import errno
import json
import os
import random
import shutil
import subprocess
import sys

import pytest

from robench.core.errors import InputError, UnfinishedError
from robench.core.journal import Journal, differing_excerpts, state_files

RUN = {"seed": 0, "suite": ["clean", "pgd"]}


def written(folder, *entries, header=RUN, rank=0):
    journal = Journal(folder, header, rank=rank)
    for entry in entries:
        journal.append(entry)
    return journal


def read(path):
    """The lines of a state without their checksums."""
    return [{key: value for key, value in json.loads(line).items() if key != "check"} for line in path.read_text().splitlines()]


def test_what_was_added_is_there_again_on_resume(tmp_path):
    written(tmp_path, {"stage": 0, "value": 0.1 + 0.2}, {"stage": 1})
    again = Journal(tmp_path, RUN, resume=True)
    assert again.entries == [{"stage": 0, "value": 0.30000000000000004}, {"stage": 1}]
    assert again.added == []


@pytest.mark.parametrize("cut", [1, 5, 12])
def test_a_torn_last_line_is_cut_off_and_the_file_goes_on(tmp_path, cut):
    path = written(tmp_path, {"stage": 0}, {"stage": 1}).path
    path.write_bytes(path.read_bytes()[:-cut])
    again = Journal(tmp_path, RUN, resume=True)
    assert again.entries == [{"stage": 0}]
    again.append({"stage": 2})
    assert Journal(tmp_path, RUN, resume=True).entries == [{"stage": 0}, {"stage": 2}]


def test_a_file_cut_inside_its_first_line_starts_anew(tmp_path):
    path = written(tmp_path).path
    path.write_bytes(path.read_bytes()[:7])
    Journal(tmp_path, RUN, resume=True).append({"stage": 0})
    assert read(path) == [RUN, {"stage": 0}]


def test_a_damaged_line_in_the_middle_is_refused(tmp_path):
    path = written(tmp_path, {"stage": 0}, {"stage": 1}).path
    lines = path.read_bytes().split(b"\n")
    path.write_bytes(b"\n".join([lines[0], lines[1][:-3], *lines[2:]]))
    with pytest.raises(InputError, match="is damaged"):
        Journal(tmp_path, RUN, resume=True)


def test_another_run_is_refused_with_what_differs(tmp_path):
    written(tmp_path, {"stage": 0})
    with pytest.raises(InputError, match="its seed is 0, here it is 1"):
        Journal(tmp_path, RUN | {"seed": 1}, resume=True)
    with pytest.raises(InputError, match="its until is null, here it is"):
        Journal(tmp_path, RUN | {"until": 0.03}, resume=True)


def test_an_unfinished_run_is_not_overwritten_and_a_finished_one_is(tmp_path):
    journal = written(tmp_path, {"stage": 0})
    with pytest.raises(InputError, match="pass --resume to go on"):
        Journal(tmp_path, RUN)
    journal.finish()
    assert Journal(tmp_path, RUN, resume=True).entries == [{"stage": 0}]
    assert Journal(tmp_path, RUN | {"seed": 1}).entries == []
    assert read(state_files(tmp_path)[0]) == [RUN | {"seed": 1}]


def test_the_files_of_all_processes_are_taken_up_whatever_their_number(tmp_path):
    Journal(tmp_path, RUN, rank=0).append({"stage": 0, "rank": 0})
    Journal(tmp_path, RUN, rank=1, resume=True).append({"stage": 0, "rank": 1})
    assert [entry["rank"] for entry in Journal(tmp_path, RUN, resume=True).entries] == [0, 1]


def test_without_a_folder_nothing_is_written(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    journal = Journal(None, RUN)
    journal.append({"stage": 0})
    journal.finish()
    assert journal.added == [{"stage": 0}]
    assert list(tmp_path.iterdir()) == []


def test_no_byte_can_be_changed_unnoticed(tmp_path):
    entries = [{"stage": stage, "fell": [True, False] * 3, "margin": [0.25, -1.5, 3e-7], "text": "a, b"} for stage in range(6)]
    path = written(tmp_path, *entries).path
    whole, chance, taken = path.read_bytes(), random.Random(0), 0
    for _ in range(600):
        place = chance.randrange(len(whole))
        path.write_bytes(whole[:place] + bytes([whole[place] ^ chance.randrange(1, 256)]) + whole[place + 1 :])
        if place == len(whole) - 1:  # the last line has no end: it is dropped
            assert Journal(tmp_path, RUN, resume=True).entries == entries[:-1]
            taken += 1
            continue
        with pytest.raises(InputError, match="is damaged, or of another version of robench: remove it"):
            Journal(tmp_path, RUN, resume=True)
    assert taken < 10


@pytest.mark.parametrize("order", [[0, 2, 1, 3], [0, 2, 3], [0, 1, 1, 2, 3], [1, 2, 3]])
def test_a_line_that_is_gone_or_stands_elsewhere_is_noticed(tmp_path, order):
    path = written(tmp_path, {"stage": 0}, {"stage": 1}, {"stage": 2}).path
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[place] for place in order))
    with pytest.raises(InputError, match="is damaged"):
        Journal(tmp_path, RUN, resume=True)


def test_on_a_full_disk_the_run_ends_with_one_sentence_and_goes_on_later(tmp_path, monkeypatch):
    journal, sync = written(tmp_path, {"stage": 0}), os.fsync

    def full(handle):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with (
        pytest.raises(UnfinishedError, match=r"cannot write .*No space left on device; make room, and go on .* --resume"),
        journal.remove_if_refused(),
    ):
        journal.append({"stage": 1})
    monkeypatch.setattr(os, "fsync", sync)
    again = Journal(tmp_path, RUN, resume=True)
    assert again.entries == [{"stage": 0}]
    again.append({"stage": 1})
    assert Journal(tmp_path, RUN, resume=True).entries == [{"stage": 0}, {"stage": 1}]


def test_a_line_that_only_fits_in_part_is_taken_back(tmp_path):
    pytest.importorskip("resource")
    path, text = written(tmp_path, {"stage": 0}).path, "a" * 20_000
    size = path.stat().st_size
    code = (  # the limit belongs to a process, so it has one of its own
        "import json, resource, signal, sys; from pathlib import Path; from robench.core.errors import UnfinishedError\n"
        "from robench.core.journal import Journal\n"
        f"journal = Journal(Path({str(tmp_path)!r}), json.loads({json.dumps(RUN)!r}), resume=True)\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({size + 9000}, resource.RLIM_INFINITY))\n"
        f"try: journal.append({{'text': {text!r}}})\n"
        "except UnfinishedError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert done.stdout.startswith("cannot write")
    assert path.stat().st_size == size
    assert Journal(tmp_path, RUN, resume=True).entries == [{"stage": 0}]


@pytest.mark.parametrize("what", ["moved", "removed", "replaced"])
def test_a_folder_that_goes_away_under_a_run_is_told_and_another_run_there_is_left_alone(tmp_path, what):
    journal = written(tmp_path / "out", {"stage": 0}) if (tmp_path / "out").mkdir() is None else None
    (tmp_path / "out").rename(tmp_path / "away")
    if what == "removed":
        shutil.rmtree(tmp_path / "away")
    if what == "replaced":
        (tmp_path / "out").mkdir()
        other = written(tmp_path / "out", header={"seed": 1})
    for add in (lambda: journal.append({"stage": 1}), journal.finish):
        with pytest.raises(UnfinishedError, match=r"was moved, removed or replaced while the run was under way: put its folder back"):
            add()
    if what == "replaced":
        assert read(other.path) == [{"seed": 1}]
    else:
        assert not (tmp_path / "out").exists()
    if what != "removed":
        assert Journal(tmp_path / "away", RUN, resume=True).entries == [{"stage": 0}]


def test_a_state_is_marked_as_finished_once(tmp_path):
    written(tmp_path, {"stage": 0}).finish()
    before = state_files(tmp_path)[0].read_bytes()
    Journal(tmp_path, RUN, resume=True).finish()
    assert state_files(tmp_path)[0].read_bytes() == before


def test_a_state_without_checksums_may_be_of_another_version(tmp_path):
    (tmp_path / "state-0.jsonl").write_text(json.dumps(RUN) + "\n")
    with pytest.raises(InputError, match="is damaged, or of another version of robench: remove it, or choose another folder"):
        Journal(tmp_path, RUN, resume=True)


def test_what_two_runs_differ_in_is_shown_around_the_first_difference():
    one, other = "folder:/" + "a/" * 50 + "old/x" * 9, "folder:/" + "a/" * 50 + "new/x" * 9
    a, b, _ = differing_excerpts(one, other)
    assert a != b
    assert "old" in a
    assert "new" in b
    assert max(len(a), len(b)) <= 66
    assert differing_excerpts("1", "2") == ("1", "2", "")
    digests = differing_excerpts("'" + "f" * 64 + "'", "'" + "0" * 64 + "'")
    assert digests == ("f" * 12 + "...", "0" * 12 + "...", " (digests: the content is another)")
