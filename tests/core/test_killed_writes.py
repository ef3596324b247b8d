"""What a writer that was killed leaves behind is removed by the next one of the same file, and nothing else is."""

import os
import subprocess
import sys

from robench.core.files import write_whole
from robench.core.folders import finish_exchange


def ended_process():
    """The number of a process that is no more."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_the_next_writer_of_a_file_removes_what_a_killed_one_left(tmp_path):
    gone = ended_process()
    left = tmp_path / f".page[1].html.{gone}.tmp"
    others = [f".page1.html.{gone}.tmp", f".page[1].html.{os.getppid()}.tmp", ".page[1].html.x.tmp", f"page[1].html.{gone}.tmp"]
    for path in (left, *(tmp_path / name for name in others)):
        path.write_text("half")
    write_whole({tmp_path / "page[1].html": b"whole"})
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*others, "page[1].html"])
    assert (tmp_path / "page[1].html").read_bytes() == b"whole"


def test_the_empty_folder_of_an_exchange_that_was_killed_at_its_very_end_is_removed_and_unsettled_files_are_not(tmp_path):
    for name in ("empty", "unsettled"):
        (tmp_path / name).mkdir()
    (tmp_path / "unsettled" / "net.pt").write_text("whole")
    for name in ("empty", "unsettled", "absent"):
        finish_exchange(tmp_path / name, tmp_path, "net.pt")
    assert [str(path.relative_to(tmp_path)) for path in sorted(tmp_path.rglob("*"))] == ["unsettled", "unsettled/net.pt"]
