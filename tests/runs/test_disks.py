"""Every command on a real disk that fills up, that takes nothing, and whose folder goes away: one sentence, and nothing is lost."""

import os
import re
import shutil
import time
from pathlib import Path

import kills
import pytest
from disks import remount, small_disk
from forks import Server

import robench
from robench.core.files import hold_lock

QUICK = ("compare",)
WRITE = [kind for kind, what in kills.KINDS.items() if what.command != "list"]
LOCK = [kind for kind in WRITE if kills.KINDS[kind].command != "report"]  # a page is written whole, and of two the last one stays


def each(kinds):
    """A case for each kind; those that are not quick are slow."""
    return [pytest.param(kind, marks=[] if kind in QUICK else [pytest.mark.slow]) for kind in kinds]


EACH = each(WRITE)


@pytest.fixture(scope="module")
def server():
    server = Server(saves=True)
    yield server
    server.close()


@pytest.fixture(scope="module")
def unbroken(server, tmp_path_factory):
    """unbroken(kind) -> its unbroken run, and the folder of what it needs, each made once."""
    workplace, made = tmp_path_factory.mktemp("unbroken"), {}

    def run(kind):
        if kind not in made:
            made[kind] = kills.unbroken_run(server, kind, workplace)
        return made[kind], workplace

    return run


def filled(folder, kind, workplace):
    """The folder with what lies there from the beginning."""
    if kills.KINDS[kind].copied:
        shutil.copytree(workplace / kills.KINDS[kind].copied, folder / "out")
    return folder


def bytes_in(folder):
    """The pages that the files in a folder take."""
    return sum(4096 * (1 + path.stat().st_size // 4096) for path in folder.rglob("*"))


def sentence_in(said):
    """The one sentence of a refusal."""
    assert "Traceback" not in said
    assert said.count("Error:") == 1
    return " ".join(said[said.index("Error:") :].split())


@pytest.mark.parametrize("kind", EACH)
def test_a_disk_that_is_too_small_is_one_sentence_and_more_room_ends_the_run(kind, server, unbroken, tmp_path):
    whole, workplace = unbroken(kind)
    place = workplace / "unbroken" / kind.replace(" ", "-").replace(",", "")
    needed, codes_seen = bytes_in(place), []
    for number, share in enumerate((0.0, 0.3, 0.6, 0.9)):
        with small_disk(tmp_path / str(number), "64m") as disk:
            filled(disk, kind, workplace)
            remount(disk, f"size={max(int(bytes_in(disk) + share * needed), 8192)}")
            words = kills.placed(kills.KINDS[kind].words, disk, workplace)
            codes, _, said = server.call(words, disk)
            codes_seen += codes
            assert codes in ([0], [2]), said
            if codes == [2]:
                assert "No space left on device" in sentence_in(said)
                remount(disk, "size=64m")
                more = kills.KINDS[kind].again
                codes, _, said = server.call([*words, *more], disk)
            assert codes == [0], said
            assert kills.difference(kills.content(disk), whole.content) == ""
    assert 2 in codes_seen


@pytest.mark.parametrize("kind", EACH)
def test_a_disk_that_takes_nothing_is_one_sentence_and_nothing_is_changed(kind, server, unbroken, tmp_path):
    _, workplace = unbroken(kind)
    with small_disk(tmp_path / "disk", "64m") as disk:
        before = kills.content(filled(disk, kind, workplace))
        remount(disk, "ro")
        codes, _, said = server.call(kills.placed(kills.KINDS[kind].words, disk, workplace), disk)
        assert codes == [2], said
        assert "Read-only file system" in sentence_in(said)
        assert kills.content(disk) == before


def test_results_on_a_disk_that_takes_nothing_are_compared(server, unbroken, tmp_path):
    _, workplace = unbroken("compare")
    with small_disk(tmp_path / "disk", "64m") as disk:
        for name in ("night", "other"):
            shutil.copytree(workplace / name, disk / name)
        remount(disk, "ro")
        codes, _, said = server.call(["compare", disk / "night", disk / "other", "--fail-on", "pgd:drop>90%"], disk)
        assert codes == [0], said


def test_runs_on_a_disk_that_takes_nothing_are_listed(server, unbroken, tmp_path):
    _, workplace = unbroken("list runs")
    with small_disk(tmp_path / "disk", "64m") as disk:
        shutil.copytree(workplace / "night", disk / "out")
        remount(disk, "ro")
        codes, _, said = server.call(["list", "runs", disk / "out"], disk)
        assert codes == [0], said


LOCKS = {
    "exported": "set/.lock",
    "training": ".net.lock",
    "tracked training": ".net.lock",
    "rerun of a training": ".net.lock",
    "training, replaced": "out/.net.lock",
    "with a teacher": ".net.lock",
    "sweep": "sweep/.lock",
}


@pytest.mark.parametrize("kind", each(LOCK))
def test_a_second_run_is_refused_while_the_first_one_lives(kind, server, unbroken, tmp_path):
    _, workplace = unbroken(kind)
    before = kills.content(filled(tmp_path / "trial", kind, workplace))
    lock = tmp_path / "trial" / LOCKS.get(kind, "out/.lock")
    lock.parent.mkdir(parents=True, exist_ok=True)
    with hold_lock(lock, lock.parent):
        for more in ((), kills.KINDS[kind].again):
            words = kills.placed(kills.KINDS[kind].words, tmp_path / "trial", workplace)
            codes, _, said = server.call([*words, *more], tmp_path / "trial")
            assert codes == [2], said
            assert f"another run is writing to {tmp_path / 'trial'}" in sentence_in(said)
            assert f"(process {os.getpid()})" in said
    assert {name: its for name, its in kills.content(tmp_path / "trial").items() if its != "a folder"} == {
        name: its for name, its in before.items() if its != "a folder"
    }


@pytest.mark.parametrize("years", [-30, 30])
@pytest.mark.parametrize("kind", EACH)
def test_a_clock_that_jumps_while_a_run_is_broken_off_changes_nothing(kind, years, server, unbroken, tmp_path):
    whole, workplace = unbroken(kind)
    filled(tmp_path / "trial", kind, workplace)
    (tmp_path / "trial").mkdir(exist_ok=True)
    words = kills.placed(kills.KINDS[kind].words, tmp_path / "trial", workplace)
    codes, _, said = server.call(words, tmp_path / "trial", before=2 * whole.changes // 3)
    assert codes == [-9], said
    then = time.time() + years * 365 * 86400
    for path in (tmp_path / "trial").rglob("*"):
        os.utime(path, (then, then))
    codes, _, said = server.call([*words, *kills.KINDS[kind].again], tmp_path / "trial")
    assert codes == [0], said
    assert kills.difference(kills.content(tmp_path / "trial"), whole.content) == ""


DATED = ("event_files.py", "mlflow_runs.py")  # trackers show the date of each number, and no seconds follow from it


def test_seconds_are_taken_from_clocks_that_never_jump():
    for path in Path(robench.__file__).parent.rglob("*.py"):
        if path.name not in DATED:
            assert not re.search(r"\btime\.time\(|from time import .*\btime\b|datetime\.now", path.read_text()), path
