"""Every kind of run, killed at any moment and taken up again, or shared by processes, ends as one that nothing broke."""

import math
import random
import shutil

import numpy as np
import pytest
from commandline import read
from forks import Server

GELU, RELU = "../../checkpoints/shapes-cnn-pgd-at.pt", "twins.py:relu"
WORDS = ["--data", "shapes", "--n", "12", "--batch-size", "4", "--threads", "1"]
KINDS = {
    "attack": ["attack", GELU, "--attack", "pgd,steps=2,restarts=2", "--eps", "8/255,16/255", "--save", "--save-png", *WORDS],
    "probes": ["attack", GELU, RELU, "--attack", "inductive-noise,t=0.05", *WORDS],
    "saliency": [
        "saliency", GELU, RELU, "--method", "saliency,input-x-gradient", "--score", "gini", "--against", "pgd,steps=2",
        "--against", "random-noise,t=0.1", "--against", "fog,severity=2", "--eps", "16/255", "--save", *WORDS,
    ],
    "corrupt": ["corrupt", GELU, "--corruption", "fog,contrast", "--severity", "1,3", "--reference", RELU, *WORDS],
    "corrupt from a set": ["corrupt", GELU, "--from", "SET", "--reference", RELU, "--n", "12", "--batch-size", "4", "--threads", "1"],
    "mixed": [
        "eval", GELU, RELU, "--suite", "pgd,steps=2", "--suite", "pgd,steps=2 on random-noise,t=0.2", "--suite", "contrast,severity=2",
        "--suite", "random-noise,t=0.1", "--suite", "saliency", "--threat", "linf:12/255", "--threat", "l2:1", "--save", *WORDS,
    ],
}  # fmt: skip


@pytest.fixture(scope="module")
def server():
    server = Server()
    yield server
    server.close()


@pytest.fixture(scope="module")
def unbroken(server, tmp_path_factory):
    """unbroken(kind) -> the words of a run, its folder, how often it changed something there, and its seconds, each made once."""
    folder, made = tmp_path_factory.mktemp("unbroken"), {}

    def run(kind):
        if kind not in made:
            if "SET" in KINDS[kind]:
                words = ["corrupt", "--corruption", "fog,contrast", "--export", folder / "set", *WORDS[:4]]
                assert server.call(words, folder / "set")[0] == [0]
            words = [folder / "set" if word == "SET" else word for word in KINDS[kind]]
            codes, changes, said = server.call([*words, "--out", folder / kind], folder / kind)
            assert codes == [0], said
            made[kind] = words, folder / kind, changes
        return made[kind]

    return run


def names(folder):
    """The files of a run without those of its state, whose number is that of the processes."""
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("state-"))


def tables(folder):
    return {
        path.name: [row for row in read(path) if row.get("metric") != "seconds"]
        for path in sorted(folder.glob("*.csv"))
    }  # fmt: skip


def same(folder, other, *, exact=True):
    """Asserts that two folders hold the same tables, arrays, pictures of images and files; `exact` or but for last bits of numbers."""
    assert names(folder) == names(other)
    found, wanted = tables(folder), tables(other)
    for name, lines in wanted.items():
        assert len(found[name]) == len(lines)
        for now, was in zip(found[name], lines, strict=True):
            assert {
                key: (was[key], now[key]) for key in was if not (now[key] == was[key] or (not exact and close(now[key], was[key])))
            } == {}
    for path in [*other.glob("*.npy"), *other.glob("x_adv*.png")]:
        if exact or path.suffix == ".png":
            assert (folder / path.name).read_bytes() == path.read_bytes(), path.name
        else:
            np.testing.assert_allclose(np.load(folder / path.name), np.load(path), rtol=1e-4, atol=1e-6)


def close(now, was):
    """Whether two cells are one number but for its last bits, which another batch may move; of counts and accuracies none moves."""
    try:
        return "." in was and math.isclose(float(now), float(was), rel_tol=1e-6, abs_tol=1e-9)
    except ValueError:
        return False


def killed(server, words, out, moment):
    """Kills a run before its change of that number; whether that came before its end."""
    codes, _, said = server.call([*words, "--out", out], out, before=moment)
    assert codes[0] in (0, -9), said
    return codes[0] == -9


def finished(server, words, out, **how):
    codes, _, said = server.call([*words, "--out", out, "--resume"], out, **how)
    assert set(codes) == {0}, said
    return said


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_that_is_killed_ends_as_an_unbroken_one(kind, server, unbroken, tmp_path):
    words, whole, changes = unbroken(kind)
    moment = random.Random(kind).randrange(changes)
    assert killed(server, words, tmp_path / "out", moment)
    finished(server, words, tmp_path / "out")
    same(tmp_path / "out", whole)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_run_that_is_killed_at_any_of_ten_moments_ends_as_an_unbroken_one(kind, server, unbroken, tmp_path):
    words, whole, changes = unbroken(kind)
    chance = random.Random(f"ten {kind}")
    for number in range(10):
        out = tmp_path / str(number)
        killed(server, words, out, chance.randrange(changes))
        if number % 2:  # and once more
            killed(server, [*words, "--resume"], out, chance.randrange(changes))
        finished(server, words, out)
        same(out, whole)


@pytest.mark.parametrize("kind", [pytest.param(kind, marks=[] if kind in ("attack", "saliency") else [pytest.mark.slow]) for kind in KINDS])
def test_a_disk_that_fills_up_is_one_sentence_and_the_run_goes_on(kind, server, unbroken, tmp_path):
    words, whole, changes = unbroken(kind)
    moment = random.Random(f"disk {kind}").randrange(changes)
    codes, _, said = server.call([*words, "--out", tmp_path / "out"], tmp_path / "out", full=moment)
    if codes == [0]:  # nothing but removals came after that moment
        same(tmp_path / "out", whole)
        shutil.rmtree(tmp_path / "out")
        codes, _, said = server.call([*words, "--out", tmp_path / "out"], tmp_path / "out", full=moment // 2)
    said = " ".join(said[said.index("Error:") :].split())
    assert codes == [2]
    assert "No space left on device" in said
    assert "Traceback" not in said
    if (tmp_path / "out").exists():
        assert said.endswith("go on with the same words and --resume")
    finished(server, words, tmp_path / "out")
    same(tmp_path / "out", whole)


@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_give_the_rows_and_samples_of_one(kind, server, unbroken, tmp_path):
    words, whole, _ = unbroken(kind)
    codes, _, said = server.call([*words, "--out", tmp_path / "out"], tmp_path / "out", ranks=2)
    assert codes == [0, 0], said
    same(tmp_path / "out", whole, exact=False)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_processes_that_are_killed_go_on_in_another_number(kind, server, unbroken, tmp_path):
    words, whole, changes = unbroken(kind)
    chance = random.Random(f"processes {kind}")
    for number, (before, after) in enumerate(((1, 2), (2, 1), (2, 3), (3, 2))):
        out = tmp_path / str(number)
        codes, _, said = server.call([*words, "--out", out], out, ranks=before, before=chance.randrange(changes // before))
        assert -9 in codes, said
        finished(server, words, out, ranks=after)
        same(out, whole, exact=False)


def agree(part, whole, *ids):
    """Asserts that the images of a run that stopped early have the lines that they have in a whole one; how many images it has."""
    known = {tuple(line[name] for name in ids): line for line in read(whole / "samples.csv")}
    lines = read(part / "samples.csv")
    for line in lines:
        was = known[tuple(line[name] for name in ids)]
        assert all(close(line[key], was[key]) or line[key] == was[key] for key in was)
    assert {int(row["n"]) for row in read(part / "rows.csv") if row["metric"] == "accuracy"} == {len({line["sample"] for line in lines})}
    return len({line["sample"] for line in lines})


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [1, 2])
def test_a_budget_and_an_interval_end_a_run_of_processes_on_the_images_of_a_whole_one(ranks, server, unbroken, tmp_path):
    words, whole, _ = unbroken("mixed")
    words = [word for word in words if word != "--save"]  # which asks for all images
    columns = ("checkpoint", "norm", "images", "sample")
    codes, _, said = server.call([*words, "--out", tmp_path / "a", "--budget", "60s"], tmp_path / "a", ranks=ranks, ticks=True)
    assert set(codes) == {0}, said
    few = agree(tmp_path / "a", whole, *columns)
    assert 0 < few < 12
    assert "the budget ended after" in said
    said = finished(server, [*words, "--budget", "60s"], tmp_path / "a", ranks=ranks)
    assert "The budget is spent: a longer one goes on, with --resume" in said
    finished(server, [*words, "--budget", "140s"], tmp_path / "a", ranks=3 - ranks, ticks=True)
    assert agree(tmp_path / "a", whole, *columns) > few
    finished(server, words, tmp_path / "a", ranks=ranks)
    assert agree(tmp_path / "a", whole, *columns) == 12
    codes, _, said = server.call([*words, "--out", tmp_path / "b", "--until", "0.3"], tmp_path / "b", ranks=ranks)
    assert set(codes) == {0}, said
    assert 0 < agree(tmp_path / "b", whole, *columns) <= 12
