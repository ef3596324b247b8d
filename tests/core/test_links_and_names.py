"""What lies in a folder where a run writes leads nowhere else: symbolic links, names with a way up, marks that somebody else wrote."""

import json
import os
import socket
from functools import partial
from pathlib import Path

import pytest
from commandline import refused, robench
from made_runs import make_run

from robench.core.errors import InputError
from robench.core.files import is_plain_name, write_synced, write_whole
from robench.core.folders import LOCK, MANIFEST, REPLACING, STAGED, WHOLE_MARK, claim_destination, finished_run_files
from robench.core.journal import Journal

WORDS = {"command": "eval"}


@pytest.fixture
def precious(tmp_path):
    """A file of somebody else, beside the folder of the run."""
    (tmp_path / "run").mkdir()
    (tmp_path / "precious.txt").write_text("precious")
    yield tmp_path / "precious.txt"
    assert (tmp_path / "precious.txt").read_text() == "precious"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["precious.txt", "run"]


def run_in(folder, **options):
    """A run that writes nothing but its manifest."""
    with claim_destination(folder, WORDS, **options) as place, place.staged_results() as staging:
        (staging / MANIFEST).write_text("{}")


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/b", "..", ".", "", "a\\b", "a\0b", 3, None])
def test_what_is_no_name_of_a_file_in_its_folder_is_none(name):
    assert not is_plain_name(name)


def test_a_table_in_place_of_a_link_is_written_and_what_the_link_named_stays(tmp_path, precious):
    (tmp_path / "run" / "rows.csv").symlink_to(precious)
    write_whole({tmp_path / "run" / "rows.csv": b"a\n"})
    assert (tmp_path / "run" / "rows.csv").read_bytes() == b"a\n"
    assert not (tmp_path / "run" / "rows.csv").is_symlink()


def test_a_temporary_name_that_is_a_link_is_not_followed(tmp_path, precious):
    (tmp_path / "run" / "a.tmp").symlink_to(precious)
    with pytest.raises(OSError, match="symbolic link"):
        write_synced(tmp_path / "run" / "a.tmp", b"x")


@pytest.mark.parametrize("name", [LOCK, STAGED, REPLACING, "state-0.jsonl"])
def test_a_run_writes_through_no_link(tmp_path, precious, name):
    (tmp_path / "run" / name).symlink_to(precious if name != STAGED else tmp_path)
    write = partial(Journal, tmp_path / "run", {"a": 1}, resume=True) if name == "state-0.jsonl" else partial(run_in, tmp_path / "run")
    with pytest.raises(InputError, match="is a symbolic link, and a run writes nothing through one"):
        write()


@pytest.mark.parametrize(
    "mark",
    [
        {"new": ["../precious.txt"], "old": []},
        {"new": [], "old": ["../precious.txt"]},
        {"new": ["/x"], "old": []},
        {"new": [".."], "old": []},
        {"new": "rows.csv", "old": []},
        {"new": [1], "old": []},
        {"old": []},
        [],
        3,
        None,
    ],
)
def test_an_exchange_moves_and_removes_nothing_outside_its_folder(tmp_path, precious, mark):
    staging = tmp_path / "run" / REPLACING
    staging.mkdir()
    (staging / WHOLE_MARK).write_text(json.dumps(mark))
    (staging / MANIFEST).write_text("{}")
    with pytest.raises(InputError, match=r"is damaged, and does not say which files move"):
        run_in(tmp_path / "run", force=True)
    assert (staging / MANIFEST).read_text() == "{}"


def test_a_manifest_that_names_files_elsewhere_removes_none(tmp_path, precious):
    (tmp_path / "run" / MANIFEST).write_text(json.dumps({"command": "robench eval", "files": ["../precious.txt", "..", "manifest.json"]}))
    (tmp_path / "run" / "rows.csv").write_text("a\n")
    assert finished_run_files(tmp_path / "run") == [MANIFEST, "rows.csv"]
    run_in(tmp_path / "run", force=True)


def test_a_state_that_is_a_link_stops_the_command_with_a_sentence(tmp_path, precious):
    (tmp_path / "run" / ".lock").symlink_to(precious)
    words = ("eval", "checkpoints/shapes-cnn-pgd-at.pt", "--suite", "fgsm", "--n", "4", "--out", tmp_path / "run")
    assert "is a symbolic link" in refused(*words)
    assert robench("list", "suites").exit_code == 0


def test_a_sentence_is_short_and_writes_nothing_to_the_terminal():
    sentence = str(InputError(f"unknown \x1b]0;title\x07 {'x' * 10_000}: choose another"))
    assert len(sentence) < 1010
    assert sentence.startswith("unknown ?]0;title? xxx")
    assert sentence.endswith("xxx: choose another")


@pytest.mark.parametrize("kind", ["folder", "pipe", "socket"])
@pytest.mark.parametrize("linked", [False, True])
def test_nothing_but_a_file_is_replaced_by_one(tmp_path, kind, linked):
    path = thing = tmp_path / "thing"
    with socket.socket(socket.AF_UNIX) as one:
        {"folder": thing.mkdir, "pipe": lambda: os.mkfifo(thing), "socket": lambda: bind_in(tmp_path, one, "thing")}[kind]()
        if linked:
            path = tmp_path / "link"
            path.symlink_to(thing)
        before = (thing.stat().st_ino, sorted(tmp_path.iterdir()))
        with pytest.raises(InputError, match="is a folder" if kind == "folder" else "is a device, a pipe or a socket"):
            write_whole({tmp_path / "other": b"a", path: b"b"})
        assert (thing.stat().st_ino, sorted(tmp_path.iterdir())) == before


def bind_in(folder, one, name):
    """Makes a socket by a short path: that of a test may be too long for one."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        one.bind(name)
    finally:
        os.chdir(before)


@pytest.mark.parametrize(
    "words",
    [["eval", "x.pt", "--out"], ["compare", "a", "b", "--out"], ["compare", "a", "b", "--json"], ["compare"], ["report", "a", "--out"],
     ["report", "a", "--base"], ["report"], ["list", "runs"], ["rerun"], ["report", "a", "--published"], ["report", "a", "--latex"],
     ["compare", "a", "b", "--junit"]],
)  # fmt: skip
def test_a_name_that_is_too_long_is_one_sentence(tmp_path, monkeypatch, words):
    monkeypatch.chdir(tmp_path)
    for name in ("a", "b"):
        make_run(tmp_path / name)
    told = refused(*words, "x" * 300, *(["x"] if words == ["compare"] else []))
    assert told.startswith("Error: ")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b"]
