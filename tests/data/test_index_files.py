"""Lists of images by number and by file name, as RobustBench ships its 5,000."""

import gzip
from pathlib import PurePosixPath

import numpy as np
import pytest
import torch
import trees
from hypothesis import given
from hypothesis import strategies as st

from robench.core.errors import InputError
from robench.data import indices_in, load_images
from robench.data.images import Choice
from robench.data.index_files import is_path_end, rows_of_names

FILES = ["n01/a.JPEG", "n01/b.JPEG", "n02/a.JPEG", "n02/sub/c.png"]


def test_names_choose_images_in_the_order_of_the_file_in_every_layout(tmp_path):
    images = trees.made_images(12)
    named = [7, 0, 11, 4]
    lines = [f"{images[k][1]}/{trees.validation_name(k)}.JPEG" for k in named]
    (tmp_path / "few.txt").write_text("\n".join([*lines, ""]))
    with gzip.open(tmp_path / "few.txt.gz", "wt") as packed:
        packed.write("\n".join(lines))
    for layout in ("wnid_folders", "devkit", "caffe", "tensorflow", "kaggle"):
        folder = trees.TREES[layout](tmp_path / layout, images)
        for listing in ("few.txt", "few.txt.gz"):
            few = load_images(f"folder:{folder}", indices=tmp_path / listing)
            assert [image.tobytes() for image in few.x.permute(0, 2, 3, 1).numpy()] == [images[k][0].tobytes() for k in named]
        assert len(load_images(f"folder:{folder}", indices=tmp_path / "few.txt", n=2)) == 2


def test_robustbenchs_list_is_read_as_it_ships(data_dir):
    names = indices_in(data_dir / "robustbench_imagenet_5000.txt.gz")
    assert len(names) == 5000
    assert names[0] == "n09468604/ILSVRC2012_val_00015253.JPEG"
    everything = sorted(names)
    rows = rows_of_names(everything, names, "toy")
    assert [everything[row] for row in rows.tolist()] == list(names)


@pytest.mark.parametrize(("wanted", "row"), [("n01/a.JPEG", 0), ("b.JPEG", 1), ("val/n02/a.JPEG", 2), ("c.png", 3), ("sub/c.png", 3)])
def test_the_shorter_path_has_to_be_the_end_of_the_longer(wanted, row):
    assert rows_of_names(FILES, [wanted], "toy").tolist() == [row]


@pytest.mark.parametrize(
    ("wanted", "sentence"),
    [
        (["a.JPEG"], "lists a.JPEG, and toy has two of that name, n01/a.JPEG and n02/a.JPEG"),
        (["n03/a.JPEG"], "lists n03/a.JPEG, and toy has no image of that name"),
        (["x.JPEG"], "toy has no image of that name"),
        (["b.JPEG", "n01/b.JPEG"], "lists b.JPEG and n01/b.JPEG, which are one image of toy"),
    ],
)
def test_names_that_are_not_there_or_twice_are_named(wanted, sentence):
    with pytest.raises(InputError, match=sentence):
        rows_of_names(FILES, wanted, "toy")


def test_sets_without_file_names_ask_for_numbers(tmp_path):
    (tmp_path / "few.txt").write_text("a/b.png\n")
    with pytest.raises(InputError, match="those of shapes have none: list them by index"):
        load_images("shapes", indices=tmp_path / "few.txt")
    np.savez(tmp_path / "toy.npz", x=np.zeros((3, 4, 4, 3), np.uint8), y=np.arange(3))
    with pytest.raises(InputError, match=r"those of npz:toy \(all\) have none"):
        load_images(f"npz:{tmp_path / 'toy.npz'}", indices=tmp_path / "few.txt")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("a.png\nb\n", "line 2 of the index file .* is 'b', and the first is the name of an image file"),
        ("a.png\n\na.png\n", "names a.png in line 1 and in line 3: list each image once"),
        ("1\na.png\n", "line 2 .* is 'a.png': each line must be one index"),
    ],
)
def test_bad_lines_are_named(tmp_path, text, sentence):
    (tmp_path / "few.txt").write_text(text)
    with pytest.raises(InputError, match=sentence):
        indices_in(tmp_path / "few.txt")


def test_a_gzip_file_that_is_cut_short_or_a_bomb_is_refused(tmp_path, monkeypatch):
    packed = gzip.compress(b"1\n2\n" * 99)
    (tmp_path / "a.gz").write_bytes(packed[:-12])
    with pytest.raises(InputError, match="is a damaged gzip file"):
        indices_in(tmp_path / "a.gz")
    monkeypatch.setattr("robench.data.index_files.LARGEST_INDEX_FILE", 50)
    (tmp_path / "a.gz").write_bytes(packed)
    with pytest.raises(InputError, match="unpacks to more than 50 bytes"):
        indices_in(tmp_path / "a.gz")


@given(st.lists(st.from_regex(r"[a-zé]{1,3}/[a-zü]{1,4}\.(png|JPEG)", fullmatch=True), min_size=1, unique=True), st.data())
def test_names_of_any_letters_find_their_files(files, data):
    wanted = data.draw(st.permutations(files))
    chosen = Choice(indices=tuple(wanted)).rows(torch.arange(len(files)), "toy", files=files)
    assert [files[row] for row in chosen.tolist()] == wanted


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=4), st.lists(st.sampled_from("abc"), min_size=1, max_size=4))
def test_ends_of_paths_are_those_of_their_parts(one, other):
    short, long = sorted((one, other), key=len)
    assert is_path_end("/".join(one), "/".join(other)) == (PurePosixPath("/".join(long)).parts[len(long) - len(short) :] == tuple(short))


def test_names_of_the_hubs_validation_images_fit_a_list_of_class_and_file():
    files = ("ILSVRC2012_val_00000293_n01440764.JPEG", "ILSVRC2012_val_00000002_n09193705.JPEG")
    assert rows_of_names(files, ["n09193705/ILSVRC2012_val_00000002.JPEG", "ILSVRC2012_val_00000293.JPEG"], "the set").tolist() == [1, 0]
    assert rows_of_names(["val/n01440764/ILSVRC2012_val_00000293.JPEG"], files[:1], "the set").tolist() == [0]
    with pytest.raises(InputError, match="no image of that name"):
        rows_of_names(files, ["n01440764/ILSVRC2012_val_00000002.JPEG"], "the set")
