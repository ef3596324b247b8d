"""`tests/kills.py`: a few kills over all commands leave the files of the unbroken runs, and the script sees what would be a fault."""

import json
import random

import kills
import pytest
from forks import Server

from robench.cli import app


def test_kinds_cover_every_command():
    assert {kind.command for kind in kills.KINDS.values()} == {command.name for command in app.registered_commands}


@pytest.mark.slow
def test_a_few_kills_over_all_commands_leave_nothing_lost_and_nothing_over(tmp_path):
    names = list(kills.KINDS)
    outcomes = kills.run_trials(names, len(names), 7, workplace=tmp_path, state=tmp_path / "known.json", jobs=1)
    assert [one["fault"] for one in outcomes if one["fault"]] == []
    assert sum(len(one["moments"]) for one in outcomes) >= len(names)
    assert json.loads((tmp_path / "known.json").read_bytes()) == outcomes
    assert kills.run_trials(names[:1], 1, 7, workplace=tmp_path, state=tmp_path / "known.json", jobs=1) == outcomes  # nothing is left to do
    *_, total = kills.table_lines(outcomes)
    assert total.startswith(f"| total | {sum(len(one['moments']) for one in outcomes)} |")


def test_a_file_too_many_one_too_few_and_another_number_are_faults(tmp_path):
    server = Server(saves=True)
    whole = kills.unbroken_run(server, "until", tmp_path)
    folder = tmp_path / "trial"
    outcome = kills.trial_outcome(server, "until", whole, random.Random(0), folder, 1, tmp_path)
    server.close()
    assert outcome["fault"] == ""
    now = kills.content(folder)
    assert "out/rows.csv" in now
    assert kills.difference({**now, "out/.lock": "a file"}, whole.content) == "left over: out/.lock"
    assert kills.difference({key: its for key, its in now.items() if key != "out/rows.csv"}, whole.content) == "missing: out/rows.csv"
    rows = [{**row, "value": "0.5"} for row in now["out/rows.csv"]]
    assert kills.difference({**now, "out/rows.csv": rows}, whole.content).startswith("out/rows.csv: ")
