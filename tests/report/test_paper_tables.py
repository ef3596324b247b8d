"""Tables for papers: which runs are one line, what is bold, and why; and that a hundred runs take no time."""

import json
import math
import time
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from robench.core.rows import Row, wilson
from robench.report.leaderboard import leaderboards_of
from robench.report.paper_tables import paper_table, plain_table, shared_name
from robench.report.table_files import table_texts
from robench.results.saved_runs import saved_run

N = 400
CLEAN = Row("a.pt", "small", "shapes", "test", N, 0, "", 0.0, "clean", "", "accuracy", 0.0)


def verdicts(right, n=N, first=0):
    """(n,) 1 for `right` images from the place `first` on."""
    values = np.zeros(n)
    values[first : first + right] = 1
    return values


def write_run(folder, robust, name="a.pt", sha256="", seed=0, training=None, images="same", day=1):
    """A finished run of one attack: all images right when clean, and those that stand."""
    folder.mkdir(parents=True)
    n = len(robust)
    clean = replace(CLEAN, checkpoint=name, seed=seed, n=n, value=1.0, low=0.99, high=1.0)
    low, high = wilson(robust.sum(), n)
    pgd = replace(clean, norm="linf", eps=8 / 255, probe="pgd-20", value=robust.mean(), low=low, high=high)
    pd.DataFrame([asdict(row) for row in (clean, pgd)]).to_csv(folder / "rows.csv", index=False)
    samples = {
        "sample": range(n), "label": np.arange(n) % 10, "clean_pred": np.arange(n) % 10,
        "broken_by": np.where(robust == 1, "", "pgd-20"), "eps": np.where(robust == 1, "", str(8 / 255)),
    }  # fmt: skip
    pd.DataFrame(samples).to_csv(folder / "samples.csv", index=False)
    manifest = {
        "finished": f"2026-11-{day:02}T00:00:00Z", "versions": {"robench": "0.1.0"},
        "checkpoint": {"name": name, "sha256": sha256 or name, **({"training": training} if training else {})},
        "data": {"name": "shapes", "split": "test", "n": n, "sha256": images},
    }  # fmt: skip
    (folder / "manifest.json").write_text(json.dumps(manifest) + "\n")
    return saved_run(folder)


def trained(seed, **recipe):
    return {"recipe": {"objective": "pgd-at", **recipe}, "data": {"name": "shapes"}, "seed": seed}


def table_of(*runs, columns=("pgd-20",)):
    (board,) = leaderboards_of(runs, columns)
    return paper_table(board, runs)


def bold(table):
    """The label of the bold line, "" where there is none."""
    return "".join(line.label for line in table.lines for cell in line.cells.values() if cell.bold)


def test_trainings_of_one_recipe_are_one_line_with_mean_and_spread(tmp_path):
    rights = (200, 210, 220)
    runs = [write_run(tmp_path / f"{k}", verdicts(right), f"net-seed{k}.pt", training=trained(k)) for k, right in enumerate(rights)]
    (line,) = table_of(*runs).lines
    (cell,) = line.cells.values()
    assert (line.label, line.over, line.seeds) == ("net (3 training seeds)", "training", (0, 1, 2))
    assert (cell.value, cell.sd) == (pytest.approx(210 / N), pytest.approx(10 / N))
    assert cell.each == tuple(right / N for right in rights)
    assert cell.high - cell.value == pytest.approx(4.302653 * 10 / N / math.sqrt(3))  # the quantile of Student's t with 2 degrees


@pytest.mark.parametrize(
    "other",
    [
        {"training": trained(1, epochs=9)}, {"training": trained(1), "images": "others"}, {"training": trained(1), "seed": 5},
        {"training": trained(0)}, {"training": {"seed": 1}}, {"training": {"recipe": "x", "seed": True}}, {"training": None},
    ],
)  # fmt: skip
def test_what_differs_in_more_than_the_training_seed_is_not_put_together(tmp_path, other):
    runs = [
        write_run(tmp_path / "a", verdicts(200), "a.pt", training=trained(0)),
        write_run(tmp_path / "b", verdicts(210), "b.pt", **other),
    ]
    assert [line.over for line in table_of(*runs).lines] == ["", ""]


def test_measurements_with_other_seeds_are_put_together_apart_and_called_so(tmp_path):
    runs = [write_run(tmp_path / f"{seed}", verdicts(200 + seed), seed=seed, training=trained(0)) for seed in (0, 1)]
    table = table_of(*runs)
    (line,) = table.lines
    assert (line.label, line.over, line.seeds) == ("a.pt (2 measuring seeds)", "measuring", (0, 1))
    assert any("say nothing about trainings" in sentence for sentence in table.caption)
    ((cell,),) = [line.cells.values() for line in table.lines]
    assert (cell.low, cell.high) == (wilson(200, N)[0], wilson(201, N)[1]), "the images leave as much open as for one seed"


def test_the_best_is_bold_where_the_same_images_tell_it_from_each_other_one_though_the_intervals_overlap(tmp_path):
    better, worse = verdicts(220), verdicts(200)  # 20 images lost, none won: McNemar's p is 2 / 2^20
    runs = [write_run(tmp_path / "a", better, "a.pt"), write_run(tmp_path / "b", worse, "b.pt")]
    table = table_of(*runs)
    cells = [cell for line in table.lines for cell in line.cells.values()]
    assert cells[0].low < cells[1].high, "the intervals overlap"
    assert bold(table) == "a.pt"
    runs = [write_run(tmp_path / "c", better, "a.pt", images=""), write_run(tmp_path / "d", worse, "b.pt", images="")]
    assert bold(table_of(*runs)) == "", "without knowing that the images are the same only intervals can tell"


@pytest.mark.parametrize(("lost", "is_bold"), [(5, False), (6, True)])  # McNemar: 2 / 2^5 = 0.0625, 2 / 2^6 = 0.031
def test_the_paired_test_is_exact(tmp_path, lost, is_bold):
    runs = [write_run(tmp_path / "a", verdicts(200), "a.pt"), write_run(tmp_path / "b", verdicts(200 - lost), "b.pt")]
    assert bool(bold(table_of(*runs))) == is_bold


def test_holm_asks_for_more_where_there_are_more_to_beat(tmp_path):
    runs = [write_run(tmp_path / "a", verdicts(200), "a.pt")]
    runs += [write_run(tmp_path / f"b{k}", verdicts(194, first=k), f"b{k}.pt") for k in (0,)]
    assert bold(table_of(*runs)) == "a.pt"  # p = 0.031 alone
    runs += [write_run(tmp_path / "c", np.roll(verdicts(194), 6), "c.pt")]  # p = 0.031 too: Holm doubles both
    assert bold(table_of(*runs)) == ""


def test_equal_numbers_are_never_bold_and_scores_without_a_direction_are_not_either(tmp_path):
    runs = [write_run(tmp_path / "a", verdicts(200), "a.pt"), write_run(tmp_path / "b", verdicts(200, first=100), "b.pt")]
    assert bold(table_of(*runs)) == ""


def test_of_several_trainings_both_images_and_trainings_have_to_tell(tmp_path):
    close = [write_run(tmp_path / f"a{k}", verdicts(300 + k), f"a{k}.pt", training=trained(k)) for k in range(3)]
    far = [write_run(tmp_path / f"b{k}", verdicts(250 + k), f"b{k}.pt", training=trained(k, reg="x")) for k in range(3)]
    assert bold(table_of(*close, *far)) == "a (3 training seeds)"
    wide = [write_run(tmp_path / f"c{k}", verdicts(150 + 70 * k), f"c{k}.pt", training=trained(k, reg="y")) for k in range(3)]
    assert bold(table_of(*close, *wide)) == "", "the images tell 301 from 220, but three such trainings do not"


def test_the_caption_says_n_data_seeds_version_and_what_is_bold(tmp_path):
    runs = [write_run(tmp_path / "a", verdicts(300), "a.pt"), write_run(tmp_path / "b", verdicts(200), "b.pt")]
    caption = " ".join(table_of(*runs).caption)
    for word in ("shapes", "test split", "n = 400", "seed 0", "robench 0.1.0", "Bold: ", "paired test", "Holm"):
        assert word in caption


def test_tidy_lines_hold_everything(tmp_path):
    runs = [write_run(tmp_path / f"{k}", verdicts(200 + k), f"a{k}.pt", training=trained(k)) for k in (0, 1)]
    (line,) = plain_table(table_of(*runs))
    assert (line["n"], line["seeds"], line["seeds_of"], line["eps"], line["each"]) == (N, "0 1", "training", 8 / 255, "0.5 0.5025")
    assert line["folders"] == f"{tmp_path / '0'} {tmp_path / '1'}"


@pytest.mark.parametrize(
    ("names", "shared"),
    [
        (["net-seed0.pt", "net-seed12.pt"], "net"), (["a1.pt", "a2.pt"], "a"), (["1.pt", "2.pt"], "1.pt"), (["x.pt", "x.pt"], "x.pt"),
        (["sagr_s0", "sagr_s1", "sagr_s10"], "sagr_s"),
    ],
)  # fmt: skip
def test_a_group_is_called_after_what_its_names_share(names, shared):
    assert shared_name(names) == shared


def test_a_hundred_runs_take_less_than_two_seconds(tmp_path):
    rng = np.random.default_rng(0)
    chance = rng.random(N)
    runs = [write_run(tmp_path / f"{k:03}", (chance < 0.4 + 0.004 * k).astype(float), f"m{k}.pt") for k in range(100)]
    begin = time.process_time()
    texts = table_texts(runs, {"latex": Path("a"), "markdown": Path("b"), "csv": Path("c")}, ["pgd-20"], [])
    assert time.process_time() - begin < 2
    assert all(texts.values())
