"""Data sets and layouts of the user's own (`file.py:function`): what comes out, and what is refused."""

import pytest
import torch
from commandline import read, refused, robench

from robench.core.errors import InputError
from robench.data import DATASET_SUMMARIES, DATASETS, load_images
from robench.models import build_network
from robench.models.checkpoint import save_checkpoint

OWN = """
import numpy as np, torch, robench
def pair(split, data_dir, *, value=9): return np.full((8, 1, 6, 6), value, np.uint8), np.arange(8) % 3
def floats(split, data_dir): return torch.rand(4, 3, 6, 6, dtype=torch.float64), np.arange(4, dtype=np.uint8)
def named(split, data_dir):
    n = torch.arange(4)
    return robench.Images("whatever", "all", torch.zeros(4, 1, 6, 6), n % 2, n + 40, ("cat", "dog"), notes=(f"from {data_dir}",))
def wrong_split(split, data_dir): return robench.Images("w", "val", torch.zeros(4, 1, 6, 6), torch.zeros(4).long(), torch.arange(4), ("a",))
def three(split, data_dir): return 1, 2, 3
def scaled(split, data_dir): return 255 * torch.ones(2, 1, 6, 6), torch.arange(2)
def soft(split, data_dir): return torch.zeros(2, 1, 6, 6), torch.zeros(2)
def short(split, data_dir): return torch.zeros(2, 1, 6, 6), torch.arange(3)
def broken(split, data_dir):
    raise KeyError(split)
def ends(split, data_dir): raise SystemExit(0)
def says(split, data_dir): raise robench.InputError("no such year")
def alone(split): return None
def other(path, split, name, asked): return None
def fails(path, split, name, asked): return path / 3
"""


@pytest.fixture
def own(tmp_path):
    """The path of a file with functions of the user's own."""
    path = tmp_path / "mine.py"
    path.write_text(OWN)
    return path


def test_a_pair_becomes_images_with_places_for_ids_and_numbers_for_names(own):
    images = load_images(f"{own}:pair", "train", n=3)
    assert (images.name, images.split, images.classes) == ("mine.py:pair", "train", ("0", "1", "2"))
    assert (images.ids.tolist(), images.y.tolist(), images.x.unique().tolist()) == ([0, 1, 2], [0, 1, 2], [9])
    assert load_images(f"{own}:pair,value=7", "test").name == "mine.py:pair,value=7"
    drawn = load_images(f"{own}:pair", "test", n=4, shuffle=True, image_size=4, resize=5)
    assert drawn.shape == (1, 4, 4)
    assert len(drawn) == 4
    assert load_images(f"{own}:floats", "test").x.dtype == torch.float32


def test_images_keep_their_ids_names_and_notes_and_are_named_as_the_user_wrote(own, tmp_path):
    images = load_images(f"{own}:named", "test", data_dir=tmp_path, n=2)
    assert (images.name, images.split, images.ids.tolist(), images.classes) == ("mine.py:named", "all", [40, 41], ("cat", "dog"))
    assert images.notes == (f"from {tmp_path}",)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("three", "returned tuple: it must return a robench.Images, or x"),
        ("wrong_split", "returned the split 'val' where 'test' was asked for"),
        ("scaled", "float pixels must lie in"),
        ("soft", "returned labels of type torch.float32"),
        ("short", "do not fit together"),
        ("broken", "mine.py:broken failed in line [0-9]+: KeyError: 'test'"),
        ("ends", "mine.py:ends failed in line [0-9]+: SystemExit"),
        ("says", "^no such year$"),
        ("alone", r"cannot be used: data sets are called as \(split, data_dir, \*, options\)"),
        ("missing", "has no function 'missing'"),
        ("pair,size=3", "has no option 'size'"),
        ("pair,value=wide", "must be a whole number"),
        ("pair=3", "a data set has no weight"),
    ],
)
def test_what_is_no_data_set_is_refused_in_one_sentence(own, name, sentence):
    with pytest.raises(InputError, match=sentence) as error:
        load_images(f"{own}:{name}", "test")
    assert "\n" not in str(error.value)


def test_options_that_cannot_apply_are_refused(own):
    with pytest.raises(InputError, match="leave --download out"):
        load_images(f"{own}:pair", "test", download=True)
    with pytest.raises(InputError, match="leave --layout out"):
        load_images(f"{own}:pair", "test", layout="splits")
    assert "no such file" in refused("eval", "tv/resnet18", "--data", "absent.py:pair")


def test_the_command_line_measures_on_own_images_and_a_failing_function_ends_with_exit_code_two(own, tmp_path):
    checkpoint, out = checkpoint_of("mine.py:pair", tmp_path), tmp_path / "out"
    robench("eval", checkpoint, "--data", f"{own}:pair", "--suite", "fgsm", "--out", out, "--quiet")
    assert {row["data"] for row in read(out / "rows.csv")} == {"mine.py:pair"}
    assert "mine.py:broken failed in line" in refused("eval", checkpoint, "--data", f"{own}:broken")


def test_a_checkpoint_does_not_start_the_code_that_made_its_images(own, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    own.write_text("raise RuntimeError('was run')")
    checkpoint = checkpoint_of("mine.py:pair", tmp_path)
    for command in (["eval"], ["attack"], ["corrupt"], ["saliency"]):
        assert "name it yourself, with --data mine.py:pair" in refused(*command, checkpoint)


def checkpoint_of(data, folder):
    """A checkpoint that says it was trained on such images."""
    described = {"arch": "mlp", "classes": 3, "shape": [1, 6, 6], "activation": "relu", "mean": None, "std": None, "options": {}}
    path = folder / "net.pt"
    save_checkpoint(path, build_network("mlp", classes=3, shape=(1, 6, 6)), {"model": described, "data": {"name": data}, "recipe": {}})
    return path


def test_a_layout_of_the_users_own_that_does_not_fit_or_fails_is_refused(own, tmp_path):
    (tmp_path / "tree" / "cat").mkdir(parents=True)
    with pytest.raises(InputError, match=r"folder:tree does not have the layout .*mine.py:other: it has cat"):
        load_images(f"folder:{tmp_path / 'tree'}", "test", layout=f"{own}:other")
    with pytest.raises(InputError, match=r"mine.py:fails failed in line [0-9]+: TypeError"):
        load_images(f"folder:{tmp_path / 'tree'}", "test", layout=f"{own}:fails")
    with pytest.raises(InputError, match="unknown layout 'split': did you mean 'splits'"):
        load_images(f"folder:{tmp_path / 'tree'}", "test", layout="split")


def test_every_named_data_set_says_in_one_line_what_it_is():
    assert all(DATASET_SUMMARIES[name] and "\n" not in DATASET_SUMMARIES[name] for name in DATASETS)


@pytest.mark.parametrize(
    ("body", "n"),
    [
        ("def made():\n    return DataLoader(DATA, 2)\n", 6),
        ("def made(*, n=4):\n    return TensorDataset(X[:n], Y[:n])\n", 4),
        ("def made():\n    return X, Y\n", 6),
    ],
)
def test_a_function_without_arguments_gives_a_set_without_splits(tmp_path, body, n):
    head = (
        "import torch\nfrom torch.utils.data import DataLoader, TensorDataset\nX, Y = torch.rand(6, 3, 8, 8), torch.arange(6) % 2\n"
        "DATA = TensorDataset(X, Y)\n"
    )
    (tmp_path / "mine.py").write_text(head + body)
    images = load_images(f"{tmp_path}/mine.py:made")
    assert (len(images), images.split, images.name) == (n, "all", "mine.py:made")
    if "*, n" in body:
        assert len(load_images(f"{tmp_path}/mine.py:made,n=3")) == 3
        with pytest.raises(InputError, match="sides"):
            load_images(f"{tmp_path}/mine.py:made,sides=3")
