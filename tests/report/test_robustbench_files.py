"""RobustBench's files: published rows read within bounds, a run written as one, and what is not known left empty."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from robench.core.errors import InputError
from robench.core.rows import Row, wilson
from robench.report.leaderboard import leaderboards_of
from robench.report.robustbench_files import MOST_BYTES, paper_facts, published_rows, robustbench_object, robustbench_text, zoo_notes
from robench.results.saved_runs import SavedRun

# the keys and the values of a file as RobustBench has them, with a made-up paper
PUBLISHED = {
    "link": "https://example.org/1", "name": "A <b>title</b>", "authors": "A. Author, B. Author", "additional_data": True,
    "number_forward_passes": 1, "dataset": "cifar10", "venue": "ICLR 2020", "architecture": "WideResNet-28-10", "eps": "8/255",
    "clean_acc": "91.10", "reported": "65.87", "autoattack_acc": "65.88", "footnote": "none",
}  # fmt: skip
CLEAN = Row("a.pt", "small", "cifar10", "test", 10_000, 0, "", 0.0, "clean", "", "accuracy", 0.911, *wilson(9110, 10_000), "wilson")
ROBUST = replace(CLEAN, norm="linf", eps=8 / 255, probe="autoattack", value=0.6588)
MANIFEST = {"checkpoint": {"name": "a.pt", "architecture": {"arch": "wrn-28-10"}}, "versions": {"robench": "0.1.0"}}


def put(folder, content, name="Model", place="cifar10/Linf"):
    """A published file, from an object or as text."""
    file = folder / place / f"{name}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(content if isinstance(content, str) else json.dumps(content))
    return file


def run_of(*rows, manifest=MANIFEST):
    return SavedRun(Path("run"), manifest, rows)


def cells(line):
    return {(column.data, column.probe, column.norm): cell for column, cell in line.cells.items()}


@pytest.mark.parametrize("below", ["", "cifar10", "cifar10/Linf"])
def test_a_published_row_is_percent_of_ten_thousand_images_wherever_the_folder_begins(tmp_path, below):
    put(tmp_path, PUBLISHED)
    ((data, line),) = published_rows(tmp_path / below).lines
    clean, robust = cells(line)["cifar10", "clean", ""], cells(line)["cifar10", "autoattack", "linf"]
    assert (data, line.name, line.published) == ("cifar10", "Model", "RobustBench")
    assert (clean.value, clean.n) == (pytest.approx(0.911), 10_000)
    assert (robust.low, robust.high) == pytest.approx(wilson(6588, 10_000))
    assert [column.eps for column in line.cells] == [0.0, 8 / 255]
    assert "ICLR 2020" in line.remark
    assert "additional data" in line.remark


def test_other_data_threats_and_spellings(tmp_path):
    put(tmp_path, PUBLISHED | {"dataset": "imagenet", "eps": "4/255"}, place="imagenet/Linf")
    put(tmp_path, PUBLISHED | {"eps": 0.5, "autoattack_acc": 72.91, "external": "7.15", "unreliable": True}, place="cifar10/L2")
    corrupted = {key: value for key, value in PUBLISHED.items() if key != "autoattack_acc"} | {"eps": None, "corruptions_acc": "77.19"}
    put(tmp_path, corrupted, place="cifar10/corruptions")
    found = {(data, *(set(cells(line)) - {(data, "clean", "")})): line for data, line in published_rows(tmp_path).lines}
    assert set(found) == {
        ("imagenet", ("imagenet", "autoattack", "linf")),
        ("cifar10", ("cifar10", "autoattack", "l2")),
        ("cifar10", ("cifar10-c", "corruptions", "")),
    }
    assert found["imagenet", ("imagenet", "autoattack", "linf")].n == 5_000
    remark = found["cifar10", ("cifar10", "autoattack", "l2")].remark
    assert "7.15 %" in remark
    assert "unreliable" in remark


@pytest.mark.parametrize(
    "content",
    [
        "", "[1, 2]", "null", "{", "[" * 100_000, '"text"', "\x00",
        PUBLISHED | {"clean_acc": "1e400"}, PUBLISHED | {"clean_acc": 911}, PUBLISHED | {"clean_acc": -1},
        PUBLISHED | {"clean_acc": True}, PUBLISHED | {"clean_acc": ["91"]}, PUBLISHED | {"clean_acc": float("nan")},
        PUBLISHED | {"clean_acc": 10**400}, PUBLISHED | {"clean_acc": "9" * 5000},
        PUBLISHED | {"eps": None}, PUBLISHED | {"eps": "8/0"}, PUBLISHED | {"eps": "-1"}, PUBLISHED | {"eps": {}},
        PUBLISHED | {"dataset": 5}, PUBLISHED | {"dataset": "unheard-of"}, PUBLISHED | {"n_examples": 0},
        PUBLISHED | {"n_examples": 1.5}, PUBLISHED | {"external": {}}, "[" + " " * MOST_BYTES + "]",
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_used_is_named_and_the_others_are_read(tmp_path, content):
    put(tmp_path, PUBLISHED, "Good")
    file = put(tmp_path, content, "Bad")
    found = published_rows(tmp_path)
    assert [line.name for _, line in found.lines] == ["Good"]
    (note,) = found.notes
    assert str(file) in note
    assert "\n" not in note
    assert len(note) < 400
    (file.parent / "Good.json").unlink()
    with pytest.raises(InputError, match=r"Bad\.json"):
        published_rows(tmp_path)


def test_links_are_not_followed_and_files_elsewhere_have_no_threat(tmp_path):
    file = put(tmp_path / "outside", PUBLISHED)
    put(tmp_path / "inside", PUBLISHED, "Good")
    (tmp_path / "inside" / "link.json").symlink_to(file)
    (tmp_path / "inside" / "folder").symlink_to(file.parent)
    assert [line.name for _, line in published_rows(tmp_path / "inside").lines] == ["Good"]
    put(tmp_path / "inside", PUBLISHED, "Lost", "elsewhere")
    assert "Linf, L2 or corruptions" in published_rows(tmp_path / "inside").notes[0]


@pytest.mark.parametrize("missing", ["no", "empty"])
def test_a_folder_without_rows_is_refused(tmp_path, missing):
    (tmp_path / "empty").mkdir()
    with pytest.raises(InputError):
        published_rows(tmp_path / missing)


def test_published_rows_stand_beside_those_of_the_same_data_and_radius_with_their_own_n(tmp_path):
    put(tmp_path, PUBLISHED)
    put(tmp_path, PUBLISHED | {"eps": "4/255"}, "Other")
    put(tmp_path, PUBLISHED | {"dataset": "cifar100"}, place="cifar100/Linf")
    mine = [replace(CLEAN, n=500), replace(ROBUST, n=500, value=0.3, low=0.26, high=0.34)]
    (board,) = leaderboards_of([run_of(*mine)], [], published_rows(tmp_path).lines)
    assert board.titles == ("clean", "autoattack linf 8/255")
    shown = {line.name: [line.cells[column].n if column in line.cells else None for column in board.columns] for line in board.lines}
    assert shown == {"Model": [10_000, 10_000], "a.pt": [500, 500], "Other": [10_000, None]}
    assert [line.published for line in board.lines] == ["RobustBench", "", "RobustBench"]


def test_a_model_of_the_zoo_is_held_against_its_published_row(tmp_path):
    put(tmp_path, PUBLISHED, "Carmon2019Unlabeled")
    lines = published_rows(tmp_path).lines
    name = "rb/Carmon2019Unlabeled,dataset=cifar10,threat=Linf"
    mine = run_of(replace(CLEAN, checkpoint=name, n=500, value=0.9), replace(ROBUST, checkpoint=name, n=500, value=0.3))
    (note,) = zoo_notes([mine], lines)
    assert note == (
        f"RobustBench publishes {name} as Carmon2019Unlabeled: clean 91.10 % there (n = 10000), 90.00 % here (n = 500); "
        "autoattack 65.88 % there (n = 10000), 30.00 % here (n = 500)."
    )
    assert zoo_notes([run_of(CLEAN, ROBUST)], lines) == zoo_notes([mine], []) == []


def test_a_run_is_written_with_the_keys_and_the_spelling_of_robustbench_and_read_back(tmp_path):
    content = robustbench_object(run_of(CLEAN, ROBUST), {})
    assert list(content) == list(PUBLISHED)
    assert (content["clean_acc"], content["autoattack_acc"], content["eps"], content["dataset"]) == ("91.10", "65.88", "8/255", "cifar10")
    assert content["architecture"] == "wrn-28-10"
    assert [content[key] for key in ("link", "name", "authors", "venue", "reported")] == [""] * 5
    assert content["additional_data"] is content["number_forward_passes"] is None
    put(tmp_path, content)
    ((_, line),) = published_rows(tmp_path).lines
    assert [cell.value for cell in line.cells.values()] == [pytest.approx(0.911), pytest.approx(0.6588)]


def test_what_the_user_tells_of_the_paper_is_taken_and_nothing_else():
    facts = paper_facts(["name=A = B", "additional_data=true", "number_forward_passes=1"])
    content = robustbench_object(run_of(CLEAN, ROBUST), facts)
    assert (content["name"], content["additional_data"], content["number_forward_passes"]) == ("A = B", True, 1)
    for wrong in (["clean_acc=99"], ["name"], ["name=a", "name=b"], ["additional_data=yes"], ["number_forward_passes=0"]):
        with pytest.raises(InputError):
            paper_facts(wrong)


def test_fewer_images_are_said_in_the_file_and_read_back(tmp_path):
    content = robustbench_object(run_of(replace(CLEAN, n=500), replace(ROBUST, n=500)), {})
    assert content["n_examples"] == 500
    assert "500 images" in content["footnote"]
    put(tmp_path, content)
    ((_, line),) = published_rows(tmp_path).lines
    assert {cell.n for cell in line.cells.values()} == {line.n} == {500}


def test_of_several_threats_the_folder_of_the_file_chooses(tmp_path):
    run = run_of(CLEAN, ROBUST, replace(ROBUST, norm="l2", eps=0.5, value=0.7))
    assert json.loads(robustbench_text(run, tmp_path / "L2" / "a.json", {}))["eps"] == "0.5"
    with pytest.raises(InputError, match="Linf, L2"):
        robustbench_text(run, tmp_path / "a.json", {})


def test_the_released_corruptions_can_be_written_and_our_own_cannot():
    overall = replace(CLEAN, data="cifar10-c", probe="corruptions", metric="mean_accuracy", setting="corruptions=15 cells=75", value=0.7719)
    content = robustbench_object(run_of(replace(CLEAN, data="cifar10-c"), overall), {})
    assert (content["corruptions_acc"], content["eps"], content["dataset"]) == ("77.19", None, "cifar10")
    for other in ({"data": "cifar10-c-synth"}, {"setting": "corruptions=3 cells=15"}, {"setting": "corruptions=15 cells=75 scale=cifar"}):
        with pytest.raises(InputError, match="fifteen released"):
            robustbench_object(run_of(CLEAN, replace(overall, **other)), {})


@pytest.mark.parametrize(
    "rows",
    [
        [CLEAN], [ROBUST], [CLEAN, replace(ROBUST, probe="pgd-20")], [CLEAN, replace(ROBUST, norm="l1")],
        [CLEAN, replace(ROBUST, interval="anytime, of 10000 images")], [CLEAN, ROBUST, replace(CLEAN, checkpoint="b.pt")],
    ],
)  # fmt: skip
def test_a_run_that_is_no_row_of_robustbench_is_refused(rows):
    with pytest.raises(InputError):
        robustbench_object(run_of(*rows), {})
