"""The state of a run on the disk: every finished line survives, a torn one does not, and no other run can take it up."""

import json

import pytest

from robench.errors import InputError
from robench.journal import Journal, states

RUN = {"seed": 0, "suite": ["clean", "pgd"]}


def written(folder, *entries, header=RUN, rank=0):
    journal = Journal(folder, header, rank=rank)
    for entry in entries:
        journal.append(entry)
    return journal


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
    assert [json.loads(line) for line in path.read_text().splitlines()] == [RUN, {"stage": 0}]


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
    assert json.loads(states(tmp_path)[0].read_text()) == RUN | {"seed": 1}


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
