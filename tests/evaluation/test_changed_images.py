"""What rows, tables and sentences say of measurements on changed images, under several threats, and of what cannot be measured."""

import pytest
import torch
from commandline import robench

from robench.core.errors import InputError
from robench.core.saved_results import load_results
from robench.evaluation import api
from robench.report.metric_meanings import accuracy_sentence, metric_meaning
from robench.report.run_parts import accuracy_kinds
from robench.report.tables import report_tables

FOG = "fog,severity=3"


@pytest.fixture(scope="module")
def p():
    """A small network on twenty images, a few of them with another label than it gives."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3072, 16), torch.nn.Tanh(), torch.nn.Linear(16, 10)).eval()
        x = torch.rand(20, 3, 32, 32)
    y = model(x).argmax(1)
    return model, x, torch.where(torch.arange(20) % 7 == 3, (y + 1) % 10, y)


def measured(p, *suite, **how):
    model, x, y = p
    return api.evaluate({"a": model, "b": model} if how.pop("two", False) else model, x, y, suite=list(suite), **how)


def accuracies(found):
    return [(row.checkpoint, row.probe) for row in found.rows if row.metric == "accuracy"]


@pytest.mark.parametrize(
    ("suite", "names"),
    [
        ([f"pgd-10 on {FOG}", "fgsm"], ["clean", "fog-3", "pgd-10 on fog-3", "fgsm"]),
        ([f"pgd-10 on {FOG}"], ["clean", "fog-3", "pgd-10 on fog-3"]),
        (["fgsm", f"pgd-10 on {FOG}", FOG], ["clean", "fgsm", "pgd-10 on fog-3", "fog"]),
        ([f"random-noise,t=0.1 on {FOG}"], ["clean", "fog-3"]),
        ([f"random-noise,t=0.1 on {FOG}", "fgsm"], ["clean", "fgsm", "fog-3"]),
    ],
)
def test_every_model_has_its_clean_accuracy_first_and_that_on_the_images_on_which_something_begins(p, suite, names):
    found = measured(p, *suite, eps=0.01, two=True)
    assert sorted(accuracies(found)) == sorted((model, name) for model in "ab" for name in names)
    assert [name for model, name in accuracies(found) if model == "a"] == names
    assert found.rows[0].probe == "clean"
    assert found.accuracy("clean") == pytest.approx(17 / 20)


def test_the_accuracy_with_which_an_attack_begins_is_that_of_the_corruption_alone(p):
    alone = next(row for row in measured(p, FOG).rows if row.probe == "fog" and row.metric == "accuracy")
    found = measured(p, f"pgd-10 on {FOG}", eps=0.01)
    start = next(row for row in found.rows if row.probe == "fog-3")
    assert (start.value, start.n, start.norm, start.low) == (alone.value, 20, "", alone.low)
    assert found.accuracy("pgd-10 on fog-3") <= start.value


def test_what_is_measured_on_an_attack_carries_its_threat(p):
    found = measured(
        p, "spatter,severity=1 on pgd-10", "random-noise,t=0.1 on spatter,severity=1 on pgd-10", "saliency on pgd-10", eps=0.01
    )
    mine = [row for row in found.rows if " on pgd-10" in row.probe or (row.metric == "gini" and row.probe == "saliency")]
    assert {row.metric for row in mine} > {"error_rate", "accuracy", "mean_accuracy", "gini"}
    assert {(row.norm, row.eps) for row in mine} == {("linf", 0.01)}
    (clean,) = [row for row in found.rows if row.probe == "clean" and row.metric == "accuracy"]
    assert (clean.norm, clean.eps) == ("", 0.0)


def test_the_accuracy_left_on_what_a_probe_made_is_over_all_images(p):
    found = measured(p, "apgd-ce,steps=3 on random-noise,t=0.1,repeats=1", eps=0.01)
    left = [row for row in found.rows if row.metric == "accuracy"]
    assert [(row.probe, row.n) for row in left] == [("clean", 20), ("random-noise", 20), ("apgd-ce on random-noise", 20)]
    assert [row.value for row in left] == sorted((row.value for row in left), reverse=True)


def test_a_folder_of_attacks_on_changed_images_is_compared_with_itself(p, tmp_path):
    suites = {"a": [f"pgd-10 on {FOG}"], "b": [f"pgd-10 on {FOG}", "fgsm", "spatter,severity=1 on fgsm", f"random-noise,t=0.1 on {FOG}"]}
    for name, suite in suites.items():
        measured(p, *suite, eps=0.01).save(tmp_path / name)
    stages = [[stage.probe for stage in load_results(tmp_path / name).stages] for name in suites]
    assert stages[0] == ["pgd-10 on fog-3"]
    assert sorted(stages[1]) == ["clean", "fgsm", "pgd-10 on fog-3"]


def test_an_accuracy_of_several_norms_is_told_only_for_the_one_that_is_named(p):
    found = measured(p, "fgsm", threats=["linf:0.005", "l2:0.5"])
    rows = {row.norm: row.value for row in found.rows if row.probe == "fgsm" and row.metric == "accuracy"}
    assert set(rows) == {"linf", "l2", "worst"}
    with pytest.raises(InputError, match="several norms: say which with norm="):
        found.accuracy("fgsm")
    assert {norm: found.accuracy("fgsm", norm=norm) for norm in rows} == rows
    assert found.accuracy("fgsm", 0.5, norm="l2") == rows["l2"]
    with pytest.raises(InputError, match="not run in the norm 'l1'"):
        found.accuracy("fgsm", norm="l1")
    with pytest.raises(InputError, match="5 accuracies, which differ in their setting"):
        measured(p, "fog").accuracy("fog")


def test_the_checks_of_each_cascade_carry_its_threat_and_those_of_the_model_the_first(p):
    found = measured(p, "square,queries=20", threats=["linf:0.01", "linf:0.02", "l2:0.5", "l2:1"])
    checks = [(row.metric.partition("/")[2], row.norm, row.eps) for row in found.rows if row.metric.startswith(("check/", "flag/"))]
    assert [where for name, *where in checks if name == "curve"] == [["linf", 0.01], ["l2", 0.5]]
    assert [where for name, *where in checks if name == "train_mode"] == [["linf", 0.01]]
    assert [where for name, *where in checks if name == "near_chance"] == [["linf", 0.01]]


def test_error_rates_stand_under_the_number_of_images_that_they_are_of(p):
    found = measured(p, "random-noise,t=0.1", f"random-noise,t=0.1 on {FOG}", two=True)
    shown = {table.title.partition(";")[0]: table.lines for table in report_tables(found.rows, title="T")}
    n = {row.probe: row.n for row in found.rows if row.metric == "error_rate"}
    assert n["random-noise"] != n["random-noise on fog-3"]
    assert list(shown) == [
        f"error rate % on the {word}"
        for words in (("when clean", n["random-noise"]), ("after fog-3", n["random-noise on fog-3"]))
        for word in (
            f"images that a model gets right {words[0]}",
            f"{words[1]} images that all models get right {words[0]}: this changes with the list of models",
        )
    ]
    first, _, third, _ = shown.values()
    assert [line[0] for line in first] == ["clean accuracy", "n right when clean", "random-noise"]
    assert [line[0] for line in third] == ["accuracy after fog-3", "n right after fog-3", "random-noise on fog-3"]
    assert third[1][2] == f"{n['random-noise on fog-3']} of 20"


def test_a_mean_over_severities_names_those_of_each_corruption(p):
    title = report_tables(measured(p, "fog,severity=2").rows, title="T")[1].title
    assert title == "mean accuracy % over severity 2"
    table = report_tables(measured(p, "fog,severity=2", "contrast").rows, title="T")[1]
    assert table.title == "mean accuracy % over the severities of each"
    assert [line[0] for line in table.lines] == ["fog, severity 2", "contrast, severity 1,2,3,4,5"]


def test_the_meaning_of_accuracy_speaks_of_what_there_is(p):
    assert accuracy_kinds(measured(p, "fog,severity=2").rows) == {"clean", "corruption"}
    assert accuracy_kinds(measured(p, "random-noise,t=0.1").rows) == {"clean"}
    assert accuracy_kinds(measured(p, f"pgd-10 on {FOG}").rows) == {"clean", "attack", "on"}
    assert accuracy_kinds(measured(p, "fgsm", threats=["linf:0.01", "l2:0.5"]).rows) == {"clean", "attack", "worst"}
    assert "attack" not in accuracy_sentence({"clean", "corruption"})
    assert "targeted attack its target" in metric_meaning("success_rate")[0]
    assert "after Y" in metric_meaning("error_rate")[0]


def test_a_score_that_no_method_can_have_gets_a_note(p):
    (note,) = [note for note in measured(p, "saliency", scores=["completeness"]).notes if "completeness" in note]
    assert note.startswith("saliency has no completeness, which needs a method")
    both = measured(p, "saliency", "integrated-gradients,steps=5", scores=["completeness"])
    assert not [note for note in both.notes if "has no completeness" in note]


@pytest.mark.parametrize(
    ("suite", "out"),
    [
        (["random-noise,t=0.1", "random-noise,t=0.2"], "run the two in two calls$"),
        (["pgd,steps=3", "pgd,steps=5"], r"run the two in two calls, or name one with its steps \(pgd-10, pgd-20\)"),
    ],
)
def test_what_is_asked_for_twice_says_the_way_out(p, suite, out):
    with pytest.raises(InputError, match=out):
        measured(p, *suite)


@pytest.mark.parametrize(
    ("more", "told"),
    [(["--n", "12"], ""), (["--n", "300", "--until", "0.2", "--batch-size", "20"], "ended at --until 0.2 or with its budget")],
)
def test_a_run_that_its_budget_did_not_end_is_not_said_to_have_spent_it(tmp_path, more, told):
    words = "eval", "checkpoints/shapes-cnn-pgd-at.pt", "--suite", "fgsm", *more, "--budget", "10m", "--out", tmp_path / "r"
    robench(*words)
    again = " ".join(robench(*words, "--resume").output.split())
    assert "budget is spent" not in again
    assert told in again
