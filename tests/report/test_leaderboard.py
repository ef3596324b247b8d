"""The leaderboard: which runs a line is made of, what stands beside what, and which numbers tie."""

from dataclasses import replace
from pathlib import Path

import pytest

from robench.core.errors import InputError
from robench.core.rows import Row, wilson
from robench.report.leaderboard import leaderboards_of, line_labels
from robench.results.saved_runs import SavedRun

CLEAN_ROW = Row("a.pt", "small", "shapes", "test", 100, 0, "", 0.0, "clean", "", "accuracy", 0.9)


def saved(folder, accuracies, name="a.pt", n=100, day=1, seed=0, eps=8 / 255, data="shapes", sha256="aa", images="", how=None):
    """A finished run with the accuracies of the probes in a dict."""
    rows = []
    for probe, value in accuracies.items():
        low, high = wilson(value * n, n)
        row = replace(CLEAN_ROW, checkpoint=name, data=data, n=n, seed=seed, probe=probe, value=value, low=low, high=high)
        rows.append(row if probe == "clean" else replace(row, norm="linf", eps=eps))
    manifest = {
        "finished": f"2026-11-{day:02}T00:00:00Z", "checkpoint": {"name": name, "sha256": sha256},
        "data": {"name": data, "split": "test", "n": n, "sha256": images or f"first {n}"}, "how": how or {},
    }  # fmt: skip
    return SavedRun(Path(folder), manifest, tuple(rows))


def values(board):
    """The numbers of a leaderboard by label, None where there is none."""
    labels = line_labels(board.lines)
    return {
        label: [line.cells[column].value if column in line.cells else None for column in board.columns]
        for label, line in zip(labels, board.lines, strict=True)
    }


def test_the_newest_number_of_a_model_on_the_same_images_counts_and_others_fill_up():
    runs = [saved("new", {"autoattack": 0.5}, day=3), saved("old", {"clean": 0.9, "autoattack": 0.4}, day=1)]
    (board,) = leaderboards_of(runs)
    assert values(board) == {"a.pt": [0.9, 0.5]}
    (line,) = board.lines
    assert [str(folder) for folder in line.folders] == ["old", "new"]
    assert [str(line.cells[column].folder) for column in board.columns] == ["old", "new"]


@pytest.mark.parametrize(
    "other",
    [{"n": 200}, {"images": "others"}, {"seed": 1}, {"sha256": "bb"}, {"name": "b.pt"}, {"how": {"engine": "reference"}}],
)
def test_what_differs_in_images_seed_weights_or_engine_has_a_line_of_its_own(other):
    (board,) = leaderboards_of([saved("one", {"clean": 0.9}), saved("two", {"clean": 0.8}, **other)])
    assert len(board.lines) == 2
    assert len(set(line_labels(board.lines))) == 2
    assert all(cell.n == line.n for line in board.lines for cell in line.cells.values())


def test_another_radius_is_another_column_and_another_data_set_another_leaderboard():
    runs = [saved("one", {"autoattack": 0.5}), saved("two", {"autoattack": 0.6}, name="b.pt", eps=4 / 255)]
    (board,) = leaderboards_of(runs)
    assert values(board) == {"b.pt": [None, 0.6], "a.pt": [0.5, None]}
    boards = leaderboards_of([saved("one", {"clean": 0.9}), saved("two", {"clean": 0.9}, data="mnist")])
    assert [board.data for board in boards] == ["shapes", "mnist"]


def test_ties_are_those_whose_intervals_overlap_with_that_of_the_best():
    runs = [saved(name, {"clean": value}, name=name) for name, value in {"a": 0.9, "b": 0.85, "c": 0.5}.items()]
    (board,) = leaderboards_of(runs)
    assert [(line.name, line.cells[board.columns[0]].tied) for line in board.lines] == [("a", True), ("b", True), ("c", False)]


def test_columns_can_be_chosen_and_one_that_nothing_has_is_refused():
    runs = [saved("one", {"clean": 0.9, "autoattack": 0.5})]
    assert [column.probe for column in leaderboards_of(runs, ["autoattack"])[0].columns] == ["autoattack"]
    with pytest.raises(InputError, match="did you mean 'clean'"):
        leaderboards_of(runs, ["cleam"])
    with pytest.raises(InputError, match="not with these words"):
        leaderboards_of(runs, ["autoattack@norm=l2"])
    with pytest.raises(InputError, match="no finished run"):
        leaderboards_of([])
