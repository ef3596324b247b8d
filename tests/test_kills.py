"""Every kind of run, killed at any moment and taken up again, or shared by processes, ends as one that nothing broke."""

import random

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
ENDS = (".csv", ".npy", ".png", ".html", ".json")


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


def same(folder, other, *, pictures=True):
    """Asserts that two folders hold the same tables, arrays, pictures of images and files."""
    assert tables(folder) == tables(other)
    if pictures:
        assert names(folder) == names(other)
    for path in [*other.glob("*.npy"), *other.glob("x_adv*.png")]:
        assert (folder / path.name).read_bytes() == path.read_bytes(), path.name


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
