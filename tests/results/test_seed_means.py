"""Groups of models that differ in the seed of their training: compared over images and over seeds, and shown with mean and deviation."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
from commandline import read, refused, robench
from made_runs import SAMPLE_HEAD, make_run, write_table
from scipy import stats

import robench as package
from robench.core.paired import SHARE, PairedValues, p_of_margin
from robench.report.comparison import compare

N = 100


def make_group(folder, names_and_robust, *, lr=0.1, seeds=None, alarm=""):
    """A run of several models of one recipe, each with its robust accuracy; returns the folder."""
    seeds = range(len(names_and_robust)) if seeds is None else seeds
    parts = [
        make_run(folder.parent / f".{folder.name}-{k}", name=name, robust=robust, seed=k, n=N)
        for k, (name, robust) in enumerate(names_and_robust.items())
    ]
    manifest = json.loads((parts[0] / "manifest.json").read_text())
    abouts = [json.loads((part / "manifest.json").read_text())["checkpoint"] for part in parts]
    for about, seed in zip(abouts, seeds, strict=True):
        about["training"] = {"recipe": {"lr": lr}, "data": {"name": "shapes", "n": 10}, "seed": seed, **({"alarm": alarm} if alarm else {})}
    manifest["checkpoint"] = manifest["words"]["checkpoint"] = abouts if len(abouts) > 1 else abouts[0]
    folder.mkdir(parents=True)
    rows = [line for part in parts for line in read(part / "rows.csv")]
    write_table(folder / "rows.csv", [*rows[0]], [[*line.values()] for line in rows])
    head = SAMPLE_HEAD if len(parts) == 1 else ["checkpoint", *SAMPLE_HEAD]
    lines = [
        ([name] if len(parts) > 1 else []) + [*line.values()]
        for part, name in zip(parts, names_and_robust, strict=True)
        for line in read(part / "samples.csv")
    ]
    write_table(folder / "samples.csv", head, lines)
    (folder / "manifest.json").write_text(json.dumps(manifest) + "\n")
    return folder


@pytest.fixture
def two(tmp_path):
    """BASE and NEW, each with three seeds of one recipe, under other names."""
    base = make_group(tmp_path / "base", {"s-seed0.pt": 0.5, "s-seed1.pt": 0.52, "s-seed2.pt": 0.57})
    new = make_group(tmp_path / "new", {"t-seed0.pt": 0.6, "t-seed1.pt": 0.63, "t-seed4.pt": 0.69}, lr=0.2, seeds=(0, 1, 4))
    return base, new


def line_of(found, probe):
    return next(line for line in found.seed_lines if line.probe == probe)


def test_groups_under_other_names_are_compared_by_the_words_of_their_checkpoints(two):
    found = compare(*two)
    line = line_of(found, "smoke")
    assert (line.base_group, line.new_group) == ("s (3 training seeds)", "t (3 training seeds)")
    assert (line.base, line.new) == (pytest.approx(0.53), pytest.approx(0.64))
    assert (line.base_sd, line.new_sd) == (
        pytest.approx(np.std([0.5, 0.52, 0.57], ddof=1)),
        pytest.approx(np.std([0.6, 0.63, 0.69], ddof=1)),
    )
    assert (line.base_seeds, line.new_seeds, line.n) == (3, 3, N)


def test_seeds_are_tested_by_welch_and_images_by_the_mean_over_seeds_of_each(two):
    line = line_of(compare(*two), "smoke")
    theirs = stats.ttest_ind([0.6, 0.63, 0.69], [0.5, 0.52, 0.57], equal_var=False)
    assert (line.t, line.df, line.p_seeds) == pytest.approx((theirs.statistic, theirs.df, theirs.pvalue))

    def standing(robust):
        return np.mean([np.random.default_rng(k).permutation(N) < round(share * N) for k, share in enumerate(robust)], axis=0)

    images = PairedValues(SHARE, standing((0.5, 0.52, 0.57)), standing((0.6, 0.63, 0.69)), np.zeros(N, dtype=np.int64))
    assert line.p_images == pytest.approx(p_of_margin(images, 0.0))


def test_gates_of_groups_are_tested_over_images(two):
    assert compare(*two).lines[0].new_checkpoint == "t (3 training seeds)"
    assert compare(*two, gates="smoke:drop>1%").verdict == "held"
    assert compare(two[1], two[0], gates="smoke:drop>1%").verdict == "fell"
    assert not [note for note in compare(*two).notes if "left out" in note]


def test_one_seed_on_a_side_says_that_seeds_cannot_be_tested(two, tmp_path):
    single = make_group(tmp_path / "one", {"u.pt": 0.9}, lr=0.3)
    found = compare(two[0], single)
    line = line_of(found, "smoke")
    assert math.isnan(line.p_seeds)
    assert "cannot be tested" in line.note
    assert 0 < line.p_images < 0.05
    shown = robench("compare", two[0], single, "--json", tmp_path / "c.json", "--markdown", tmp_path / "c.md").stdout
    assert "seeds cannot be tested" in shown
    assert json.loads((tmp_path / "c.json").read_text())["seed_groups"][0]["p_seeds"] is None
    assert "seeds cannot be tested" in (tmp_path / "c.md").read_text()


def test_models_of_one_name_are_compared_as_before_and_their_groups_beside(tmp_path):
    names = ("s-seed0.pt", "s-seed1.pt")
    base = make_group(tmp_path / "base", dict(zip(names, (0.5, 0.52), strict=True)))
    new = make_group(tmp_path / "new", dict(zip(names, (0.6, 0.63), strict=True)), lr=0.2)
    found = compare(base, new)
    assert [line.new_checkpoint for line in found.lines if line.probe == "smoke"] == [*names]
    assert {line.test for line in found.lines if line.probe == "smoke"} == {"mcnemar, tango"}
    assert line_of(found, "smoke").difference == pytest.approx(0.105)


def test_names_alone_make_no_group(tmp_path):
    base = make_group(tmp_path / "base", {"s-seed0.pt": 0.5, "s-seed1.pt": 0.52})
    manifest = json.loads((base / "manifest.json").read_text())
    for about in manifest["checkpoint"]:
        del about["training"]
    (base / "manifest.json").write_text(json.dumps(manifest))
    new = make_group(tmp_path / "new", {"t-seed0.pt": 0.5, "t-seed1.pt": 0.52})
    assert "no name is in both" in refused("compare", base, new)


def test_a_recipe_with_a_seed_twice_is_no_group(tmp_path):
    base = make_group(tmp_path / "base", {"s-seed0.pt": 0.5, "s-seed1.pt": 0.52}, seeds=(0, 0))
    assert "no name is in both" in refused("compare", base, make_group(tmp_path / "new", {"t-seed0.pt": 0.5, "t-seed1.pt": 0.5}))


def test_two_single_models_are_compared_as_ever(tmp_path):
    found = compare(make_group(tmp_path / "base", {"a.pt": 0.5}), make_group(tmp_path / "new", {"b.pt": 0.6}, lr=0.2))
    assert (found.seed_lines, found.lines[0].test) == ([], "mcnemar, tango")


def test_the_page_of_a_run_shows_mean_deviation_and_number_of_seeds(two, tmp_path):
    text = package.write_report(two[0], tmp_path / "page.html").read_text()
    assert "s (3 training seeds)" in text
    assert "53.00 \N{PLUS-MINUS SIGN} 3.61" in text
    both = package.write_report([*two], tmp_path / "both.html").read_text()
    assert "64.00 \N{PLUS-MINUS SIGN} 4.58" in both
    against = package.write_report(two[1], tmp_path / "base.html", base=two[0]).read_text()
    assert "Over training seeds" in against


@pytest.mark.parametrize("alarm", ["", "the loss became NaN"])
def test_a_group_with_a_seed_that_its_guard_ended_is_named_and_never_bold(tmp_path, alarm):
    base = make_group(tmp_path / "base", {"s-seed0.pt": 0.2, "s-seed1.pt": 0.21, "s-seed2.pt": 0.2})
    new = make_group(tmp_path / "new", {"t-seed0.pt": 0.8, "t-seed1.pt": 0.81, "t-seed2.pt": 0.8}, lr=0.2, alarm=alarm)
    page = package.write_report([base, new], tmp_path / "page.html").read_text()
    assert ("was ended by its guard" in page) == bool(alarm)
    robench("report", base, new, "--csv", tmp_path / "t.csv")
    lines = read(tmp_path / "t.csv")
    assert ("1" in {line["bold"] for line in lines if line["probe"] == "smoke"}) == (not alarm)


def test_the_page_of_single_models_has_no_table_of_seeds(tmp_path):
    make_run(tmp_path / "one")
    assert "training seeds" not in Path(package.write_report(tmp_path / "one", tmp_path / "page.html")).read_text()
