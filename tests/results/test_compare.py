"""robench compare: what is compared, what is refused, and what fails the gate."""

import csv
import json
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
import typer
from commandline import read, refused, robench
from places import ROOT, TESTS

from robench.cli import Group
from robench.cli.compare import compare_command
from robench.cli.evaluate import evaluate_command
from robench.core.errors import InputError
from robench.core.paired import PairedValues, tango_interval
from robench.core.rows import blank_row
from robench.core.saved_results import load_results
from robench.core.statistics import mcnemar
from robench.report.comparison import compare
from robench.report.comparison_files import p_value_text
from robench.results.compare import ComparedRow, ComparisonLine
from robench.results.gates import Gate, default_gates, is_beyond, parse_gate, parse_gates

EPS = 8 / 255
app = typer.Typer(cls=Group, pretty_exceptions_enable=False, add_completion=False, rich_markup_mode=None)
app.command("compare")(compare_command)
app.command("eval")(evaluate_command)


def made(folder, broken_by, probes=("fgsm", "pgd-10"), suite="smoke", change=lambda row: row, labels=None, radii=(EPS,), **about):
    """A results folder such as `robench eval` writes, of images that these probes broke at the first radius ("" for survivors).

    Where the radius is another, the image is given as (probe, eps).
    """
    n, broken_by = len(broken_by), [b if isinstance(b, tuple) else (b, radii[0]) for b in broken_by]
    data = {"name": "shapes", "split": "test", "n": n, "sha256": "f" * 64, **about.pop("data", {})}
    base = {"checkpoint": "net.pt", "data": "shapes", "n": n, "norm": "linf", "eps": 0.0, "probe": "", "setting": "", "metric": "accuracy"}
    stages = [("clean", radii[0]), *((probe, eps) for eps in radii for probe in probes)]
    rows = []
    for place, (probe, eps) in enumerate(stages):
        threat = {"norm": "", "eps": 0.0} if probe == "clean" else {"eps": eps}
        row = {**base, **threat, "probe": probe, "setting": "steps=10" if probe == "pgd-10" else ""}
        row["value"] = sum(broken not in stages[: place + 1] for broken in broken_by) / n
        rows += [change(row), {**row, "metric": "seconds", "value": 1.0}, {**row, "metric": "flag/randomised", "value": 0.5}]
    for eps in radii if suite else ():
        left = sum(not probe or at > eps for probe, at in broken_by) / n
        rows.append(change({**base, "probe": suite, "eps": eps, "value": left}))
    labels = labels or [k % 10 for k in range(n)]
    samples = [
        {"sample": 3 * k, "label": labels[k], "broken_by": probe, "eps": eps if probe not in ("", "clean") else ""}
        for k, (probe, eps) in enumerate(broken_by)
    ]
    folder.mkdir()
    for name, lines in (("rows.csv", rows), ("samples.csv", samples)):
        with (folder / name).open("w", newline="") as file:
            writer = csv.DictWriter(file, list(lines[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(lines)
    manifest = {"seed": 0, "device": "cpu", "versions": {"torch": "2.9"}, "data": data, **about}
    (folder / "manifest.json").write_text(json.dumps(manifest, indent=2) + "\n")
    return folder


def outcomes(clean, fgsm, pgd, stands):
    return ["clean"] * clean + ["fgsm"] * fgsm + ["pgd-10"] * pgd + [""] * stands


@pytest.fixture
def pair(tmp_path):
    """BASE holds 70 of 100 at the end; NEW lost 12 of those and won 1."""
    base = outcomes(5, 15, 10, 70)
    new = list(base)
    new[30:42], new[29] = ["fgsm"] * 12, ""
    return made(tmp_path / "base", base), made(tmp_path / "new", new)


def test_the_table_holds_the_numbers_that_counting_gives(pair, tmp_path):
    result = robench("compare", *pair, "--out", tmp_path / "out", code=1)
    clean, fgsm, pgd, smoke = read(tmp_path / "out" / "compare.csv")
    assert [line["probe"] for line in (clean, fgsm, pgd, smoke)] == ["clean", "fgsm", "pgd-10", "smoke"]
    assert list(clean) == list(ComparisonLine.__dataclass_fields__)
    assert (clean["base"], clean["new"], clean["difference"], clean["p"]) == ("0.95", "0.95", "0.0", "1.0")
    assert (fgsm["base"], fgsm["new"], fgsm["only_base"], fgsm["only_new"]) == ("0.8", "0.68", "12", "0")
    assert (pgd["base"], pgd["new"], pgd["only_base"], pgd["only_new"]) == ("0.7", "0.59", "12", "1")
    assert {**pgd, "probe": "", "setting": ""} == {**smoke, "probe": "", "setting": ""}
    assert (pgd["setting"], pgd["norm"], float(pgd["eps"]), pgd["n"]) == ("steps=10", "linf", EPS, "100")
    assert float(pgd["p"]) == mcnemar(12, 1)
    numbers = [float(pgd[key]) for key in ("difference", "low", "high")]
    assert numbers == pytest.approx((-0.11, *tango_interval(12, 1, 100)))
    assert "-11.00" in result.stdout
    assert "n = 100, linf eps = 8/255" in result.stdout


def test_standing_after_each_probe_is_what_a_simulation_of_the_cascade_says(tmp_path):
    rng = np.random.default_rng(0)
    probes = ("a", "b", "c", "d")
    broken = [list(rng.choice(["clean", *probes, ""], 200, p=[0.1, 0.2, 0.1, 0.1, 0.1, 0.4])) for _ in range(2)]
    base, new = (made(tmp_path / name, b, probes, "all") for name, b in zip(("x", "y"), broken, strict=True))
    order = ["clean", *probes, ""]
    for place, line in enumerate(compare(base, new).lines[:-1]):
        one, other = (np.array([order.index(probe) > place for probe in b]) for b in broken)
        assert (line.base, line.new) == (one.mean(), other.mean())
        assert (line.only_base, line.only_new) == ((one & ~other).sum(), (~one & other).sum())


def test_a_drop_that_is_larger_than_allowed_and_than_chance_ends_with_1_and_names_the_numbers(pair):
    stderr = robench("compare", *pair, "--fail-on", "smoke:drop", code=1).stderr
    assert stderr.startswith("Failed: smoke at linf eps 8/255 fell from 70.00 to 59.00 %, by 11.00 points where at most 0 may go")
    assert "of 100 images 12 are lost and 1 won" in stderr
    assert "McNemar p = 0.0034" in stderr
    assert len(stderr.splitlines()) == 1
    stderr = robench("compare", *pair, "--fail-on", "smoke:drop>3%", code=1).stderr
    assert "by 11.00 points where at most 3 may go: of 100 images 12 are lost and 1 won (Tango p = 0.01" in stderr


def test_a_drop_that_is_more_than_allowed_but_not_significantly_so_is_a_warning_and_with_strict_a_failure(pair):
    words = ["--fail-on", "smoke:drop>10%"]
    told = robench("compare", *pair, *words).stderr
    assert told.startswith("Warning: smoke at linf eps 8/255: 100 images cannot tell, from 70.00 to 59.00 %")
    assert re.search(r"about [\d,]+ images would do", told)
    assert robench("compare", *pair, *words, "--strict", code=1).stderr.startswith("Failed: smoke at linf eps 8/255: 100 images cannot")


def test_a_gate_of_any_drop_knows_only_fell_and_not_fell_also_with_strict(pair):
    told = robench("compare", pair[1], pair[0], "--fail-on", "smoke:drop", "--strict")
    assert "Not fell: smoke at linf eps 8/255 went from 59.00 to 70.00 %, no significant drop: one of" in told.stderr
    assert "would have been found 9 times in 10" in told.stderr


def test_a_drop_that_the_interval_excludes_held(tmp_path):
    base = made(tmp_path / "base", outcomes(50, 150, 100, 700))
    new = made(tmp_path / "new", [*outcomes(50, 150, 100, 700)[:-1], "fgsm"])
    for strict in ([], ["--strict"]):
        told = robench("compare", base, new, "--fail-on", "smoke:drop>2%", *strict).stderr
        assert "Held: smoke at linf eps 8/255 held: from 70.00 to 69.90 %, a drop of 0.10 points where at most 2 may go" in told


@pytest.mark.parametrize(
    "words",
    [
        ["--fail-on", "smoke:drop>11%"],
        ["--alpha", "0.003"],
        ["--fail-on", "smoke:drop>20%"],
        ["--fail-on", "clean:drop"],
        ["--fail-on", "pgd-10:drop>0.5"],
    ],
)
def test_a_drop_that_is_allowed_or_may_be_chance_ends_with_0(pair, words):
    assert "Failed" not in robench("compare", *pair, *words).stderr


def test_an_improvement_never_fails(pair):
    robench("compare", pair[1], pair[0], "--fail-on", "fgsm:drop", "--fail-on", "smoke:drop>0%", "--alpha", 1)


def test_every_gate_that_fails_gets_its_sentence(pair):
    gates = [word for probe in ("clean", "fgsm", "pgd-10") for word in ("--fail-on", f"{probe}:drop>1%")]
    lines = robench("compare", *pair, *gates, "--quiet", code=1).stderr.splitlines()
    assert [line.split()[1] for line in lines if line.startswith("Failed")] == ["fgsm", "pgd-10"]


def test_every_radius_is_compared_and_gated_and_a_verdict_knows_nothing_of_larger_radii(tmp_path):
    small, large = 2 / 255, EPS
    base = ["clean"] * 5 + [("fgsm", small)] * 10 + [("pgd-10", small)] * 5 + [("fgsm", large)] * 10 + [("pgd-10", large)] * 10 + [""] * 60
    new = list(base)
    new[40:52] = [("fgsm", large)] * 12
    folders = [made(tmp_path / name, broken, radii=(small, large)) for name, broken in (("base", base), ("new", new))]
    result = robench("compare", *folders, "--out", tmp_path / "out", "--fail-on", "smoke:drop>1%", "--fail-on", "pgd-10:drop>1%", code=1)
    lines = [(line["probe"], float(line["eps"]), line["base"], line["new"]) for line in read(tmp_path / "out" / "compare.csv")]
    assert lines == [
        ("clean", 0.0, "0.95", "0.95"),
        ("fgsm", small, "0.85", "0.85"),
        ("pgd-10", small, "0.8", "0.8"),
        ("fgsm", large, "0.7", "0.58"),
        ("pgd-10", large, "0.6", "0.48"),
        ("smoke", small, "0.8", "0.8"),
        ("smoke", large, "0.6", "0.48"),
    ]
    assert "pgd-10 2/255" in result.stdout
    assert [line[:35] for line in result.stderr.splitlines() if line.startswith("Failed")] == [
        "Failed: smoke at linf eps 8/255 fel",
        "Failed: pgd-10 at linf eps 8/255 fe",
    ]
    other = made(tmp_path / "other", [""] * 100, radii=(small, 2 * large))
    assert "list of radii" in refused("compare", folders[0], other)


def test_tables_without_a_radius_for_each_image_are_read_where_there_is_only_one(pair, tmp_path):
    edit(pair[1] / "samples.csv", lambda text: re.sub(r",[^,\n]*$", "", text, flags=re.MULTILINE))
    assert "eps" not in (pair[1] / "samples.csv").read_text()
    robench("compare", *pair, code=1)


def test_a_flag_that_only_new_raised_is_noted(tmp_path):
    base = made(tmp_path / "base", PLAIN, flags=["clean: near chance"])
    new = made(tmp_path / "new", PLAIN, flags=["clean: near chance", "square: gradients may be masked"])
    wide = ["--fail-on", "smoke:drop>50%"]
    assert (
        robench("compare", base, new, *wide).stderr.splitlines()[0]
        == "Note: flag of NEW that BASE has not: square: gradients may be masked"
    )
    assert "flag" not in robench("compare", new, base, *wide).stderr
    told = robench("compare", base, new, "--fail-on", "flag:*", code=1).stderr
    assert "Failed: a flag of NEW that BASE has not: square: gradients may be masked." in told
    robench("compare", new, base, "--fail-on", "flag:*", "--strict")
    assert "no flag 'randomized' was looked at in NEW: did you mean 'randomised'?" in refused(
        "compare", base, new, "--fail-on", "flag:randomized"
    )


def test_a_run_of_one_attack_has_its_own_probe_as_the_last(tmp_path):
    base = made(tmp_path / "base", outcomes(0, 10, 0, 90), ("fgsm",), "")
    new = made(tmp_path / "new", outcomes(0, 30, 0, 70), ("fgsm",), "")
    assert "Failed: fgsm" in robench("compare", base, new, code=1).stderr


def test_what_is_allowed_is_exact_in_images():
    def lost(count):
        values = np.arange(1000) < 900
        new = values & (np.arange(1000) >= count)
        verdicts = PairedValues("verdict", values.astype(float), new.astype(float), np.zeros(1000, dtype=int))
        return ComparedRow(blank_row(), verdicts, ("",) * 5)

    for percent in ("0.7", "1.1", "2.2", "2.3", "5.7"):
        gate, exact = parse_gate(f"p:drop>{percent}%"), round(float(percent) * 10)
        assert not is_beyond(gate, lost(exact))
        assert is_beyond(gate, lost(exact + 1))


def test_six_lost_images_are_the_fewest_that_make_a_gate_of_any_drop_fall(tmp_path):
    base = made(tmp_path / "base", outcomes(0, 0, 0, 100))
    for lost in (5, 6):
        robench("compare", base, made(tmp_path / str(lost), outcomes(0, 0, lost, 100 - lost)), code=lost == 6)


@pytest.mark.parametrize(
    ("sentence", "allowed"),
    [
        ("smoke:drop", 0),
        ("smoke:drop>1%", Fraction(1, 100)),
        (" smoke : drop > 0.5 % ", Fraction(1, 200)),
        ("smoke:drop>0.01", Fraction(1, 100)),
        ("smoke:drop>.5%", Fraction(1, 200)),
        ("smoke:drop>1/20", Fraction(1, 20)),
        ("smoke:drop>0", 0),
    ],
)
def test_gates_are_read(sentence, allowed):
    assert parse_gate(sentence) == Gate("smoke", "drop", Fraction(allowed))


def test_a_probe_of_a_users_file_may_have_a_colon_in_its_name():
    assert parse_gate("mine.py:momentum:drop>2%") == Gate("mine.py:momentum", "drop", Fraction(1, 50))


def test_without_a_gate_any_drop_of_the_last_probe_counts():
    rows = [replace(blank_row(), probe=name, metric="accuracy", norm="linf" * (name != "clean")) for name in ("clean", "fgsm", "smoke")]
    assert default_gates(rows) == [Gate("smoke", "drop", Fraction(0))]
    assert default_gates(rows[:1]) == [Gate("clean", "drop", Fraction(0))]
    assert default_gates([*rows[:1], replace(blank_row(), probe="corruptions", metric="mean_error")]) == [
        Gate("mean_error", "rise", Fraction(0))
    ]


@pytest.mark.parametrize(
    "sentence",
    ["smoke", "smoke:fall>1%", "smoke:drop>", "smoke:drop>-1%", "smoke:drop>=1%", "smoke:drop>1e99999999", ":drop", "smoke:drop>x"],
)
def test_gates_that_cannot_be_read_are_refused(sentence):
    with pytest.raises(InputError, match="write NAME:drop"):
        parse_gate(sentence)


@pytest.mark.parametrize(
    ("sentence", "gate"),
    [
        ("gini:rise>0.02", Gate("gini", "rise", Fraction(1, 50))),
        ("gini@method=saliency:rise>0.02", Gate("gini", "rise", Fraction(1, 50), (("method", "saliency"),))),
        ("pgd@norm=l2@eps=8/255:drop>1%", Gate("pgd", "drop", Fraction(1, 100), (("norm", "l2"), ("eps", "8/255")))),
        ("flag:*", Gate("*", "flag", Fraction(0))),
        ("flag:randomised", Gate("randomised", "flag", Fraction(0))),
    ],
)
def test_gates_of_every_kind_are_read(sentence, gate):
    assert parse_gates([sentence, sentence]) == [gate]


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--fail-on", "smoek:drop"], "no probe or metric 'smoek' was measured in both runs: did you mean 'smoke'?"),
        (["--fail-on", "smoke@norm=l2:drop"], "the rows of 'smoke' have no norm 'l2': there is linf"),
        (["--fail-on", "smoke@nrom=l2:drop"], "the rows of 'smoke' have no 'nrom': did you mean 'norm'?"),
        (["--fail-on", "smoke@eps=9/255:drop"], "the rows of 'smoke' have no eps '9/255': there is 8/255"),
        (["--fail-on", "smoke:drop>1%,smoke:drop>2%"], "allow smoke at linf eps 8/255 different changes: keep one of them"),
        (["--last", "3"], "--last counts the runs of one folder"),
        (["--junit", "FILE/x.xml"], "there is no folder"),
        (["--junit", "FILE", "--json", "FILE"], "name one file"),
        (["--fail-on", "smoke:drop>1"], "one percent is written drop>1%"),
        (["--fail-on", "smoke:drop>100%"], "can never fail"),
        (["--fail-on", "smoke:drop>1/0"], "divides by zero"),
        (["--fail-on", "smoke"], "write NAME:drop"),
        (["--alpha", "0"], "--alpha"),
        (["--alpha", "nan"], "--alpha"),
        (["--alpha", "1.5"], "--alpha"),
        (["--out", "FILE/out"], "FILE"),
    ],
)
def test_wrong_options_get_a_sentence_and_code_2(pair, tmp_path, words, sentence):
    (tmp_path / "FILE").write_text("")
    stderr = refused("compare", *pair, *(word.replace("FILE", f"{tmp_path}/FILE") for word in words))
    assert sentence in stderr
    assert len(stderr.splitlines()) == 1


PLAIN = outcomes(5, 15, 10, 70)


@pytest.mark.parametrize(
    ("other", "sentence"),
    [
        ({"data": {"name": "mnist"}}, "the data set is shapes in BASE and mnist in NEW"),
        ({"data": {"split": "train"}}, "the split is test in BASE and train in NEW"),
        ({"data": {"sha256": "0" * 64}}, "SHA-256"),
        ({"broken_by": PLAIN[:-1]}, "the number of images is 100 in BASE and 99 in NEW"),
        ({"labels": [0] * 100}, "the label of image 3 is 1 in BASE and 0 in NEW"),
        ({"probes": ("fgsm", "pgd-20"), "broken_by": [b.replace("10", "20") for b in PLAIN]}, "list of probes"),
        ({"probes": ("pgd-10", "fgsm")}, "list of probes"),
        ({"suite": "pgd"}, "list of probes"),
        ({"suite": ""}, "list of probes"),
        (
            {"change": lambda row: {**row, "setting": row["setting"].replace("10", "11")}},
            "the setting of pgd-10 is steps=10 in BASE and steps=11",
        ),
        ({"radii": (EPS * (1 + 1e-9),)}, "the eps of fgsm"),
        ({"radii": (EPS / 2,)}, "the list of radii is 8/255 in BASE and 4/255 in NEW"),
        ({"change": lambda row: {**row, "norm": row["norm"] and "l2"}}, "the norm of fgsm is linf in BASE and l2 in NEW"),
    ],
)
def test_runs_that_are_not_alike_are_refused(tmp_path, other, sentence):
    new = made(tmp_path / "new", **{"broken_by": PLAIN, **other})
    stderr = refused("compare", made(tmp_path / "base", PLAIN), new)
    assert sentence in stderr
    assert len(stderr.splitlines()) == 1


def test_other_images_are_refused_by_their_ids(tmp_path):
    base, new = made(tmp_path / "base", PLAIN), made(tmp_path / "new", PLAIN)
    edit(new / "samples.csv", lambda text: text.replace("\n6,2,", "\n7,2,"))
    assert "only BASE has image 6" in refused("compare", base, new)


def edit(path, how):
    path.write_text(how(path.read_text()))


def dropped(text, start):
    """The text without the lines that begin so, or hold it."""
    return "".join(line for line in text.splitlines(keepends=True) if start not in line)


@pytest.mark.parametrize(
    ("file", "damage", "sentence"),
    [
        ("samples.csv", None, "has no samples.csv"),
        ("rows.csv", None, "has no rows.csv"),
        ("manifest.json", None, "has no manifest.json, without which its numbers cannot be placed"),
        ("samples.csv", lambda text: text[: len(text) // 2], "cut short"),
        ("rows.csv", lambda text: text[:-3], "cut short"),
        ("manifest.json", lambda text: text[:40] + "\n", "is not JSON"),
        ("manifest.json", lambda text: "[]\n", "is no manifest"),
        ("manifest.json", lambda text: text.replace("{", '{"format": 99,', 1), "was written by a newer robench (format 99"),
        ("manifest.json", lambda text: text.replace("{", '{"format": "x",', 1), "is no whole number"),
        (
            "rows.csv",
            lambda text: text.replace("accuracy,0.8", "accuracy,many"),
            "has 'many' in line 5 under 'value', where a number belongs",
        ),
        ("manifest.json", lambda text: text.replace("sha256", "md5"), "does not say data.sha256"),
        ("samples.csv", lambda text: text.rpartition("\n297,")[0] + "\n", "do not agree how many images"),
        ("samples.csv", lambda text: text.partition("\n")[0] + "\n", "nothing but its head"),
        ("samples.csv", lambda text: "\n", "nothing but its head"),
        ("samples.csv", lambda text: text.replace("label", "lable", 1), "needs one column 'label'"),
        ("samples.csv", lambda text: text.replace("eps", "label", 1), "needs one column 'label'"),
        ("samples.csv", lambda text: text.replace("\n6,2,", "\n6,", 1), "3 cells in line 4, but 4 columns"),
        ("samples.csv", lambda text: text.replace("\n6,2,", "\n6.5,2,", 1), "cannot be used"),
        ("samples.csv", lambda text: text.replace("\n6,2,", "\n9,3,", 1), "do not agree how many images"),
        ("samples.csv", lambda text: text.replace("pgd-10", "pgd-99", 1), "'pgd-99' at eps 0.03137254901960784 broke an image"),
        ("samples.csv", lambda text: text.replace("pgd-10", "fgsm", 1), "fgsm leaves 0.8 in rows.csv, but 0.79 in samples.csv"),
        ("samples.csv", lambda text: text.replace("\n6,2,", '\n"6,2,', 1), "is not CSV"),
        ("rows.csv", lambda text: dropped(text, "fgsm"), "'fgsm' at eps 0.03137254901960784 broke an image"),
        ("rows.csv", lambda text: dropped(text, "clean"), "must begin with the clean accuracy"),
        ("rows.csv", lambda text: text + text.splitlines()[-1] + "\n", "name every probe once at a radius"),
        ("rows.csv", lambda text: text.replace("accuracy,0.8", "accuracy,nan"), "fgsm leaves nan"),
        ("rows.csv", lambda text: text.replace(",100,", ",101,", 1), "do not agree how many images"),
        (
            "samples.csv",
            lambda text: text.replace("broken_by", "broken", 1),
            "has none of the columns broken_by, method, fooled, flips and probe",
        ),
        ("samples.csv", lambda text: text.replace("\n6,2,", "\n\uff16,2,", 1), "where a number belongs"),
        ("samples.csv", lambda text: text.replace("\n30,", "\n3_0,", 1), "where a number belongs"),
        ("samples.csv", lambda text: text.replace("0.03137", "o.03137", 1), "under 'eps': 'o.03137"),
        ("samples.csv", lambda text: text.replace("\n6,2,", "\n6,,", 1), "under 'label'"),
        ("rows.csv", lambda text: text.replace("accuracy,0.8", "accuracy,"), "in line 5 under 'value': nothing stands where a number"),
        ("rows.csv", lambda text: text.replace(",100,", ",1_00,", 1), "has '1_00' in line 2 under 'n', where a number belongs"),
        ("rows.csv", lambda text: text.replace(",100,", ",\uff11\uff10\uff10,", 1), "in line 2 under 'n', where a number belongs"),
        ("manifest.json", lambda text: "[" * 100_000, "is not JSON: it is nested too deeply"),
        ("manifest.json", lambda text: text.replace("{", '{"x": ' + "9" * 5000 + ",", 1), "is not JSON: a whole number in it is too long"),
        ("manifest.json", lambda text: text.replace("{", '{"format": -1,', 1), "says format -1, which is no whole number above 0"),
    ],
)
def test_files_that_are_missing_cut_short_or_contradict_each_other_are_refused(tmp_path, file, damage, sentence):
    base, new = made(tmp_path / "base", PLAIN), made(tmp_path / "new", PLAIN)
    if damage is None:
        (new / file).unlink()
    else:
        edit(new / file, damage)
    for words in ((base, new), (new, base)):
        stderr = refused("compare", *words)
        assert sentence in stderr
        assert str(new) in stderr
        assert len(stderr.splitlines()) == 1
        assert stderr.count("cannot be used") < 2


def test_a_manifest_needs_no_end_of_its_last_line(pair):
    edit(pair[1] / "manifest.json", lambda text: text.rstrip("\n"))
    robench("compare", *pair, "--fail-on", "smoke:drop>50%")


def test_files_that_are_no_text_and_folders_that_are_none_are_refused(tmp_path):
    base = made(tmp_path / "base", PLAIN)
    assert "no results folder" in refused("compare", base, tmp_path / "nowhere")
    assert "no results folder" in refused("compare", base / "rows.csv", base)
    (base / "rows.csv").write_bytes(b"\xff\xfe\x00\n")
    assert "not text" in refused("compare", base, base)


def test_columns_and_metrics_of_later_versions_and_the_order_of_samples_do_not_matter(pair, tmp_path):
    later = tmp_path / "later"
    shutil.copytree(pair[0], later)
    head, *lines = (later / "samples.csv").read_text().splitlines()
    (later / "samples.csv").write_text("\n".join(["new_column," + head, *("x," + line for line in reversed(lines))]) + "\n")
    edit(later / "rows.csv", lambda text: text + dropped(text.partition("\n")[2], "accuracy").replace("seconds", "check/zero_gradient"))
    lines, again = (compare(first, pair[1]).lines for first in (pair[0], later))
    assert [replace(line, base_run="") for line in lines] == [replace(line, base_run="") for line in again]


def test_names_that_a_table_reader_might_take_for_nothing_are_names(tmp_path):
    base, new = (made(tmp_path / str(k), ["NA"] * k + ["nan"] * 3 + [""] * (20 - k), ("NA", "nan"), "None") for k in (4, 12))
    lines = compare(base, new).lines
    assert [line.probe for line in lines] == ["clean", "NA", "nan", "None"]
    assert [line.only_base for line in lines] == [0, 8, 8, 8]


def test_another_seed_or_version_is_noted_and_quiet_says_nothing(tmp_path):
    base = made(tmp_path / "base", PLAIN)
    new = made(tmp_path / "new", PLAIN, seed=7, versions={"torch": "3.0"})
    loud, quiet = robench("compare", base, new), robench("compare", base, new, "--quiet")
    assert loud.stderr.splitlines()[:2] == ["Note: seed is 0 in BASE and 7 in NEW", "Note: versions.torch is 2.9 in BASE and 3.0 in NEW"]
    assert quiet.stderr == ""
    assert quiet.stdout == loud.stdout


def test_a_gate_that_so_few_images_cannot_serve_says_so(tmp_path):
    base = made(tmp_path / "base", PLAIN)
    told = robench("compare", base, base, "--fail-on", "smoke:drop>1%").stderr
    assert "100 images cannot tell" in told
    assert "about 1,041 images would do" in told  # n d / (1 - d) = (1.96 + 1.28)^2 at d = 0.01
    assert "Held" in robench("compare", base, base, "--fail-on", "smoke:drop>5%").stderr
    for words in (["--fail-on", "clean:drop"], []):  # of any drop, and by default: what would have been found
        assert (
            "no significant drop: one of 10.08 points would have been found 9 times in 10" in robench("compare", base, base, *words).stderr
        )


@pytest.mark.parametrize(
    ("p", "text"), [(1.0, "1"), (0.0625, "0.062"), (0.00123, "0.0012"), (0.000976, "1e-03"), (3e-120, "3e-120"), (0.0, "0")]
)
def test_p_values_are_short(p, text):
    assert p_value_text(p) == text


def test_the_table_fits_a_terminal_of_80_columns(tmp_path):
    base, new = ["clean"] * 5 + ["apgd-ce"] * 295 + ["square"] * 100 + [""] * 100, ["clean"] * 200 + [""] * 200 + ["square"] * 100
    folders = [made(tmp_path / str(k), broken, ("apgd-ce", "square"), "autoattack") for k, broken in enumerate((base, new))]
    table = robench("compare", *folders, "--fail-on", "clean:drop>99%").stdout.partition("\n")[2].splitlines()
    assert table[3 + 4].startswith("\u2514")  # a line a probe
    assert max(map(len, table[: 3 + 4 + 1])) <= 80


def test_help_does_not_import_torch_or_pandas():
    code = (
        "import sys, typer\nfrom robench.cli.compare import compare_command\napp = typer.Typer()\napp.command()(compare_command)\n"
        "try: app(['--help'])\nexcept SystemExit as end: assert end.code == 0\n"
        "assert not {'torch', 'pandas', 'matplotlib'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_a_damaged_network_fails_the_gate_and_the_same_network_passes(tmp_path):
    checkpoint = ROOT / "checkpoints" / "shapes-cnn-pgd-at.pt"
    content = torch.load(checkpoint, weights_only=True)
    for weight in content["state"].values():
        if weight.is_floating_point() and weight.dim() > 1:
            weight.add_(0.3 * weight.std() * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)))
    torch.save(content, tmp_path / "damaged.pt")
    for name, model, seed in (("base", checkpoint, 0), ("again", checkpoint, 1), ("new", tmp_path / "damaged.pt", 0)):
        robench("eval", model, "--suite", "smoke", "--n", 100, "--seed", seed, "--threads", 1, "--out", tmp_path / name, "--quiet")
    gate = ["--fail-on", "smoke:drop>1%"]
    assert "Note: seed is 0 in BASE and 1 in NEW" in robench("compare", tmp_path / "base", tmp_path / "again", *gate).stderr
    assert "Failed: smoke at linf eps 8/255 fell" in robench("compare", tmp_path / "base", tmp_path / "new", *gate, code=1).stderr
    robench("compare", tmp_path / "new", tmp_path / "base", *gate)


EARLIER = TESTS / "earlier"  # a run of an earlier version, which stopped after 20 of 40 images
GELU, RELU = ROOT / "checkpoints" / "shapes-cnn-pgd-at.pt", f"{ROOT}/tests/golden/twins.py:relu"


def test_a_run_of_an_earlier_version_is_compared_with_one_of_now(tmp_path):
    words = ["--suite", "smoke", "--eps", "8/255,12/255", "--n", 40, "--batch-size", 20, "--data", "shapes", "--threads", 1, "--quiet"]
    robench("eval", GELU, *words, "--until", 0.2, "--out", tmp_path / "early")
    robench("eval", GELU, *words, "--out", tmp_path / "all")
    for new in ("early", "all"):
        told = robench("compare", EARLIER, tmp_path / new, "--out", tmp_path / f"with {new}")
        lines = read(tmp_path / f"with {new}" / "compare.csv")
        assert {(line["n"], line["only_base"], line["only_new"]) for line in lines} == {("20", "0", "0")}
        assert ("BASE saw 20 and NEW 40 of the 40 chosen images: compared are the 20 in common" in told.stderr) == (new == "all")
    assert load_results(EARLIER).stages == load_results(tmp_path / "early").stages


def stopped(folder, places, chosen=100):
    """A run that saw these of the images 0, 3, 6, ... only, of which every third fell to fgsm."""
    made(folder, ["fgsm" if place % 3 == 0 else "" for place in places], data={"chosen": chosen})
    lines = read(folder / "samples.csv")
    ids = {3 * row: 3 * place for row, place in enumerate(places)}
    with (folder / "samples.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(lines[0]), lineterminator="\n")
        writer.writeheader()
        for line in lines:
            writer.writerow({**line, "sample": ids[int(line["sample"])], "label": ids[int(line["sample"])] % 7})
    return folder


def test_runs_that_stopped_early_are_compared_on_the_images_in_common(tmp_path):
    base, new = stopped(tmp_path / "base", range(40)), stopped(tmp_path / "new", range(10, 60))
    told = robench("compare", base, new, "--out", tmp_path / "out")
    assert "Note: BASE saw 40 and NEW 50 of the 100 chosen images: compared are the 30 in common" in told.stderr
    line = read(tmp_path / "out" / "compare.csv")[-1]
    assert (line["n"], float(line["base"]), line["only_base"]) == ("30", 20 / 30, "0")


def with_a_class(folder):
    """The run with class 6 for the images before 30 and from 120 on, and the row of that class."""
    lines = read(folder / "samples.csv")
    mine = [line for line in lines if not 30 <= int(line["sample"]) < 120]
    labels = {line["sample"]: 6 if line in mine else 1 for line in lines}
    edit(folder / "samples.csv", lambda text: re.sub(r"(?m)^(\d+),\d+,", lambda found: f"{found[1]},{labels[found[1]]},", text))
    share = sum(not line["broken_by"] for line in mine) / len(mine)
    head = dict.fromkeys(read(folder / "rows.csv")[0], "")
    row = {**head, "checkpoint": "net.pt", "n": len(mine), "norm": "linf", "eps": EPS, "probe": "smoke", "setting": "class=6",
           "metric": "class_accuracy", "value": share}  # fmt: skip
    edit(folder / "rows.csv", lambda text: text + ",".join(map(str, row.values())) + "\n")
    return folder


def test_a_class_without_an_image_in_common_is_left_out(tmp_path):
    base, new = (with_a_class(stopped(tmp_path / name, places)) for name, places in (("base", range(40)), ("new", range(10, 60))))
    assert {line.metric for line in compare(base, base).lines} == {"accuracy", "class_accuracy"}
    assert {(line.metric, line.n) for line in compare(base, new).lines} == {("accuracy", 30)}
    with pytest.raises(InputError, match="no probe or metric 'class' was measured in both runs"):
        compare(base, new, gates="class:drop>1%")


@pytest.mark.parametrize(
    ("places", "chosen", "sentence"),
    [
        (range(31, 60), 100, "stopped early and have 9 images in common: 10 are needed"),
        (range(60, 90), 100, "have 0 images in common"),
        (range(10, 60), 99, "the number of images is 40 in BASE and 50 in NEW"),
    ],
)
def test_too_few_images_in_common_and_other_sets_are_refused(tmp_path, places, chosen, sentence):
    new = stopped(tmp_path / "new", places, chosen)
    assert sentence in refused("compare", stopped(tmp_path / "base", range(40)), new)


@pytest.fixture(scope="module")
def threats(tmp_path_factory):
    """Two runs of two models under two threats, beside a probe, a corruption, and an attack on corrupted images."""
    folder = tmp_path_factory.mktemp("threats")
    suite = ["--suite", "fgsm", "--suite", "fgsm on fog,severity=2", "--suite", "fog,severity=2", "--suite", "random-noise,t=0.1"]
    words = [*suite, "--threat", "linf:8/255", "--threat", "l2:0.7", "--n", 20, "--data", "shapes", "--threads", 1, "--quiet"]
    for name, models in (("both", (GELU, RELU)), ("one", (GELU,)), ("other", (RELU,))):
        robench("eval", *models, *words, "--out", folder / name)
    return folder


def test_several_threats_their_worst_probes_and_corruptions_are_compared(threats, tmp_path):
    robench("compare", threats / "one", threats / "other", "--fail-on", "clean:drop>99%", "--out", tmp_path / "out")
    lines = [line for line in read(tmp_path / "out" / "compare.csv") if line["metric"] == "accuracy"]
    assert [(line["probe"], line["norm"]) for line in lines] == [
        ("clean", ""), ("fgsm", "linf"), ("fgsm", "l2"), ("fgsm on fog-2", "linf"), ("fgsm on fog-2", "l2"), ("fgsm", "worst"),
        ("fog", ""), ("random-noise", ""),
    ]  # fmt: skip
    lines = lines[:-2]
    for line in lines:
        for folder, side in (("one", "base"), ("other", "new")):
            rows = [row for row in read(threats / folder / "rows.csv") if row["metric"] == "accuracy"]
            row = next(row for row in rows if (row["probe"], row["norm"]) == (line["probe"], line["norm"]))
            assert float(row["value"]) == pytest.approx(float(line[side]), abs=1e-12)
    assert float(lines[-1]["base"]) <= min(float(lines[1]["base"]), float(lines[2]["base"]))


def test_several_models_are_paired_by_name(threats, tmp_path):
    told = robench("compare", threats / "both", threats / "one", "--out", tmp_path / "out")
    lines = read(tmp_path / "out" / "compare.csv")
    assert {line["base_checkpoint"] for line in lines} == {line["new_checkpoint"] for line in lines} == {"shapes-cnn-pgd-at.pt"}
    assert {(line["only_base"], line["only_new"]) for line in lines} == {("0", "0")}
    assert "twins.py:relu is in BASE alone and is left out" in told.stderr
    told = robench("compare", threats / "both", threats / "both")
    assert "shapes-cnn-pgd-at.pt: " in told.stdout
    with pytest.raises(InputError, match="holds the results of several models"):
        load_results(threats / "both")


def test_models_without_a_name_in_common_are_refused_and_runs_without_attacks_are_compared(threats, tmp_path):
    three = tmp_path / "three"
    shutil.copytree(threats / "both", three)
    for path in three.glob("*.csv"):
        edit(path, lambda text: text.replace("shapes-cnn-pgd-at.pt", "a").replace("twins.py:relu", "b"))
    assert "and no name is in both" in refused("compare", threats / "one", three)
    robench("eval", GELU, "--suite", "random-noise,t=0.1", "--n", 10, "--threads", 1, "--quiet", "--out", tmp_path / "probe")
    assert "random-noise t 0.1" in robench("compare", tmp_path / "probe", tmp_path / "probe").stderr
    robench("corrupt", GELU, "--corruption", "fog", "--severity", 1, "--n", 10, "--threads", 1, "--quiet", "--out", tmp_path / "fog")
    assert "mean_error" in robench("compare", tmp_path / "fog", tmp_path / "fog").stdout
    assert "the data set is shapes in BASE and shapes-c-synth in NEW" in refused("compare", tmp_path / "probe", tmp_path / "fog")
