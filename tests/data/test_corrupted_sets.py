"""Corrupted sets on disk: what is read, under which name, what is refused, and that our own come back as they were written."""

import errno
import json
import os
import signal
import struct
import subprocess
import sys
import tracemalloc
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from robench.core.errors import InputError
from robench.corruptions import corrupted_images as under
from robench.data import Choice, Images, load_images
from robench.data.corrupted_sets import (
    SEVERITIES,
    clean_image_rows,
    corrupted_set_layout,
    pixel_checked_set,
    read_corrupted_set,
)
from robench.data.corrupted_trees import centre_crop
from robench.data.export import prepare_export
from robench.data.released_sets import CORRUPTION_NAMES

N = 10
OFFICIAL = {10: [3, 8, 8, 0, 6, 6, 1, 6, 3, 1], 100: [49, 33, 72, 51, 71, 92, 15, 14, 23, 0]}


def some(n=N, size=32, seed=0):
    """Random pixels (5 n, size, size, 3)."""
    return np.random.default_rng(seed).integers(0, 256, (5 * n, size, size, 3), dtype=np.uint8)


def folder_of(top, n=N, y=None, **files):
    """A folder of arrays with labels 0, 1, ... unless given (False leaves them out)."""
    top.mkdir(parents=True, exist_ok=True)
    for name, array in (files or {"fog": some(n)}).items():
        np.save(top / f"{name}.npy", array)
    if y is not False:
        np.save(top / "labels.npy", np.tile(np.arange(n) % 10, 5).astype(np.uint8) if y is None else y)
    return top


def sparse(path, shape):
    """A .npy file of zeros that takes no room on the disk."""
    with path.open("wb") as handle:
        np.lib.format.write_array_header_1_0(handle, {"descr": "|u1", "fortran_order": False, "shape": shape})
        handle.truncate(handle.tell() + int(np.prod(shape)))


def released(top, classes=10, y=None):
    """A folder of the released shape, all black: 10,000 images, labels that begin in the official order."""
    top.mkdir()
    sparse(top / "fog.npy", (50_000, 32, 32, 3))
    left = np.bincount(OFFICIAL[classes], minlength=classes)
    order = np.concatenate([OFFICIAL[classes], np.repeat(np.arange(classes), 10_000 // classes - left)])
    np.save(top / "labels.npy", np.tile(order if y is None else y, 5).astype(np.uint8))
    return top


def clean(n=N, channels=3, size=32, classes=10, seed=1):
    x = torch.from_numpy(np.random.default_rng(seed).integers(0, 256, (n, channels, size, size), dtype=np.uint8))
    return Images("toy", "test", x, torch.arange(n) % classes, 7 * torch.arange(n) + 2, tuple(map(str, range(classes))))


def tree(top, corruptions=("fog",), severities=SEVERITIES, per_class=None, size=(64, 64)):
    """A tree of images; red tells the place in the sorted list, green the severity."""
    for name in corruptions:
        for severity in severities:
            place = 0
            for kind, count in sorted((per_class or {"n01": 3, "n02": 2}).items()):
                (top / name / str(severity) / kind).mkdir(parents=True)
                for number in range(count):
                    Image.new("RGB", size, (place, severity, 0)).save(top / name / str(severity) / kind / f"v_{number}.png")
                    place += 1
    return top


# --- arrays


def test_rows_of_a_severity_are_those_of_the_released_layout(tmp_path):
    array = some()
    data = read_corrupted_set(folder_of(tmp_path / "toy", fog=array, snow=some(seed=1)))
    rows = torch.tensor([7, 0, 3])
    for severity in SEVERITIES:
        images = data.load("fog", severity, rows)
        assert np.array_equal(images.x.permute(0, 2, 3, 1).numpy(), array[(severity - 1) * N + rows.numpy()])
        assert (images.y.tolist(), images.ids.tolist(), images.split) == ([7, 0, 3], [7, 0, 3], "test")
        assert images.x.is_contiguous()
    assert (len(data), data.shape, data.corruptions, data.severities) == (N, (3, 32, 32), ("snow", "fog"), SEVERITIES)


def test_the_nineteen_corruptions_come_in_the_order_of_the_paper_unless_some_are_asked_for(tmp_path):
    folder_of(tmp_path, **dict.fromkeys(sorted(CORRUPTION_NAMES), some(n=1, size=2)), n=1)
    assert read_corrupted_set(tmp_path).corruptions == CORRUPTION_NAMES
    assert len(set(CORRUPTION_NAMES)) == 19
    few = read_corrupted_set(tmp_path, ["snow", "fog", "snow"], [5, 1])
    assert (few.corruptions, few.severities) == (("snow", "fog"), (5, 1))
    for cell in (("frost", 1), ("fog", 2)):
        with pytest.raises(InputError, match="opened without"):
            few.load(*cell, torch.arange(1))


def test_the_choice_of_images_is_that_of_the_clean_data(tmp_path):
    data = read_corrupted_set(folder_of(tmp_path))
    assert data.rows(Choice(n=4)).tolist() == [0, 1, 2, 3]
    assert data.rows(Choice(indices=(8, 2))).tolist() == [8, 2]
    assert sorted(data.rows(Choice(shuffle=True, seed=3)).tolist()) == list(range(N))
    with pytest.raises(InputError, match="n = 11 is not possible"):
        data.rows(Choice(n=11))


@pytest.mark.parametrize("kind", [np.uint8, np.int64, ">i4"])
def test_labels_may_be_given_once_or_five_times_and_of_any_whole_type(tmp_path, kind):
    y = np.array([3, 1, 2] * 3 + [0]).astype(kind)
    for number, stored in enumerate((y, np.tile(y, 5))):
        data = read_corrupted_set(folder_of(tmp_path / str(number), y=stored))
        assert data.y.tolist() == y.tolist()
        assert data.y.dtype == torch.int64


@pytest.mark.parametrize(("classes", "name"), [(10, "cifar10-c"), (100, "cifar100-c")])
def test_only_all_labels_of_the_official_split_give_the_released_name(tmp_path, monkeypatch, classes, name):
    folder = released(tmp_path / "anything", classes)
    data = read_corrupted_set(folder)
    assert (data.name, data.kind, data.layout, len(data)) == ("folder:anything-c", "other", name, 10_000)
    assert data.notes[0].endswith(f"there is no {name[:-2]} in data to compare its labels")
    y = data.y.clone()
    monkeypatch.setattr("robench.data.torchvision_sets.official_test_labels", lambda asked, _: y if asked == name[:-2] else None)
    data = read_corrupted_set(folder)
    assert (data.name, data.kind, data.layout, len(data.classes), data.notes) == (name, "released", "", classes, ())
    assert data.y[:10].tolist() == OFFICIAL[classes]
    y[9_998], y[20] = data.y[20], data.y[9_998]  # one pair exchanged, behind the first ten
    data = read_corrupted_set(folder)
    assert (data.name, data.kind, data.layout) == ("folder:anything-c", "other", name)
    assert "its labels are not those of" in data.notes[0]


def test_a_set_whose_brightness_is_not_that_of_the_clean_images_is_not_called_released(tmp_path, monkeypatch):
    images, folder = clean(n=40), released(tmp_path / "set")
    made = under(images.pixels(slice(None)), images.ids, "brightness", 1, seed=0)
    sparse(folder / "brightness.npy", (50_000, 32, 32, 3))
    array = np.load(folder / "brightness.npy", mmap_mode="r+")
    array[:40] = (made * 255).round().permute(0, 2, 3, 1).numpy()
    array.flush()
    y = read_corrupted_set(folder).y
    monkeypatch.setattr("robench.data.torchvision_sets.official_test_labels", lambda *_: y)
    data = read_corrupted_set(folder, ["fog"])
    assert pixel_checked_set(data, folder, images, torch.arange(40)).kind == "released"
    array[:40] = (array[:40].astype(int) + np.where(array[:40] < 255, 1, 0)).astype(np.uint8)
    assert pixel_checked_set(data, folder, images, torch.arange(40)).kind == "released"
    array[39, 0, 0] -= 3
    other = pixel_checked_set(data, folder, images, torch.arange(40))
    assert (other.name, other.kind, other.layout) == ("folder:set-c", "other", "cifar10-c")
    assert "its brightness of severity 1 is up to" in other.notes[0]
    sparse(folder / "brightness.npy", (20_000, 32, 32, 3))
    with pytest.raises(InputError, match=r"fog.npy has shape \(50000, .* and brightness.npy \(20000, .* must be the same images"):
        pixel_checked_set(data, folder, images, torch.arange(40))
    (folder / "brightness.npy").unlink()
    alone = pixel_checked_set(read_corrupted_set(folder, ["fog"]), folder, images, torch.arange(40))
    assert alone.kind == "released"
    assert "it has no brightness" in alone.notes[0]


def test_a_set_is_known_by_its_pixels(tmp_path):
    one = read_corrupted_set(folder_of(tmp_path / "one", fog=some()))
    same, other = (
        read_corrupted_set(folder_of(tmp_path / "same", fog=some())),
        read_corrupted_set(folder_of(tmp_path / "other", fog=some(seed=1))),
    )
    longer = read_corrupted_set(folder_of(tmp_path / "longer", n=11, fog=some(11)))
    digests = [data.digest("fog", torch.arange(N)) for data in (one, same, other, longer)]
    assert digests[0] == digests[1]
    assert len(set(digests)) == 3
    last = some()
    last[-1, 31, 31, 2] ^= 1  # of the last image at severity 5
    assert read_corrupted_set(folder_of(tmp_path / "last", fog=last)).digest("fog", torch.arange(N)) != digests[0]


def test_any_other_set_is_named_after_its_folder_and_never_as_a_released_one(tmp_path):
    for folder, name in (("pets", "folder:pets-c"), ("cifar10-c", "folder:cifar10-c"), ("CIFAR-10-C", "folder:CIFAR-10-C")):
        data = read_corrupted_set(folder_of(tmp_path / folder))
        assert (data.name, data.kind, data.made) == (name, "other", {})
    unbalanced = read_corrupted_set(released(tmp_path / "mine", y=np.arange(10_000) % 9))
    assert (unbalanced.name, unbalanced.kind, len(unbalanced.classes)) == ("folder:mine-c", "other", 9)
    larger = released(tmp_path / "larger")
    (larger / "fog.npy").unlink()
    sparse(larger / "fog.npy", (50_000, 33, 32, 3))
    assert read_corrupted_set(larger).kind == "other"


def test_arrays_of_other_names_are_left_out_and_a_note_says_so(tmp_path):
    data = read_corrupted_set(folder_of(tmp_path / "toy", fog=some(), brown_noise=some(), mist=some()))
    assert data.corruptions == ("fog",)
    assert data.notes == ("left out of toy, for they are none of the 19 corruptions: brown_noise, mist",)
    assert read_corrupted_set(folder_of(tmp_path / "plain")).notes == ()


def test_ten_of_twenty_thousand_images_are_read_without_the_rest(tmp_path):
    np.save(tmp_path / "labels.npy", np.arange(20_000) % 10)
    sparse(tmp_path / "fog.npy", (100_000, 32, 32, 3))
    with (tmp_path / "fog.npy").open("r+b") as handle:
        handle.seek(-1, os.SEEK_END)
        handle.write(b"\x07")
    tracemalloc.start()
    images = read_corrupted_set(tmp_path).load("fog", 5, torch.arange(19_990, 20_000))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert images.x[-1, 2, 31, 31] == 7
    assert int(images.x.sum()) == 7
    assert peak < 4e6
    assert (tmp_path / "fog.npy").stat().st_size > 307e6


@pytest.mark.parametrize(
    ("files", "y", "sentence"),
    [
        ({"fog": some()}, False, r"has no labels\.npy"),
        ({"fog": some()[:49]}, None, r"fog\.npy holds uint8 of shape \(49, 32, 32, 3\): it must be"),
        ({"fog": some()[:45]}, None, "has 50 labels for 9 images at five severities: it must have 45, or 9"),
        ({"fog": some()[:0]}, None, "five severities of N images"),
        ({"fog": some().astype(np.float32)}, None, "holds float32"),
        ({"fog": some().transpose(0, 3, 1, 2)}, None, r"shape \(50, 3, 32, 32\)"),
        ({"fog": some()[..., 0]}, None, r"shape \(50, 32, 32\)"),
        ({"fog": np.concatenate([some(), some()[..., :1]], 3)}, None, r"shape \(50, 32, 32, 4\)"),
        ({"fog": some().astype(np.uint16)}, None, "holds uint16"),
        ({"fog": some(), "snow": some(n=9)}, None, r"snow\.npy has shape|fog\.npy \(50, 32, 32, 3\): all must be the same images"),
        ({"fog": some()}, np.tile([*range(N), *range(N - 1, -1, -1)], 3)[:50], "image 0 has label 0 at severity 1 and 9 at severity 2"),
        ({"fog": some()}, np.repeat(np.arange(N), 5), "image 0 has label 0 at severity 1 and 2 at severity 2"),
        ({"fog": some()}, np.tile(np.arange(N), 5) - 1, "labels of -1 to 8"),
        ({"fog": some()}, np.tile(np.arange(N), 5) * 10**12, "100000 classes are the most"),
        ({"fog": some()}, np.tile(np.arange(N), 5) / 10, "must be whole numbers"),
        ({"fog": some()}, np.eye(N, dtype=int), "must be whole numbers of shape"),
        ({"fog": some()}, np.array([{}] * N), r"labels\.npy is not a \.npy file of plain numbers"),
        ({"mist": some()}, None, "holds none of the 19 corruptions"),
    ],
)
def test_arrays_with_something_wrong_are_refused(tmp_path, files, y, sentence):
    with pytest.raises(InputError, match=sentence):
        read_corrupted_set(folder_of(tmp_path / "toy", y=y, **files))


def test_a_file_cut_short_or_too_long_is_refused_if_it_is_asked_for(tmp_path):
    folder_of(tmp_path, fog=some(), snow=some())
    whole = (tmp_path / "fog.npy").read_bytes()
    for content in (whole[:-1], whole[: len(whole) // 2], whole[:100], whole[:7], b"", b"PK\x03\x04" + whole, b"text", whole + b"\0"):
        (tmp_path / "fog.npy").write_bytes(content)
        with pytest.raises(InputError, match=r"fog\.npy is (not a \.npy file|longer than its array)"):
            read_corrupted_set(tmp_path)
        assert read_corrupted_set(tmp_path, ["snow"]).corruptions == ("snow",)


def test_no_damage_to_the_head_of_a_file_escapes_as_anything_but_a_sentence(tmp_path):
    folder_of(tmp_path)
    whole = (tmp_path / "fog.npy").read_bytes()
    rng, refused = np.random.default_rng(0), 0
    for place in range(128):
        damaged = bytearray(whole)
        damaged[place] ^= int(rng.integers(1, 256))
        (tmp_path / "fog.npy").write_bytes(damaged)
        try:
            read_corrupted_set(tmp_path)
        except InputError:
            refused += 1
    assert refused > 60  # the rest hits the padding


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ({"corruptions": ["gausian_noise"]}, "unknown corruption 'gausian_noise': did you mean 'gaussian_noise'"),
        ({"corruptions": ["snow"]}, "has no snow: it holds fog"),
        ({"severities": [6]}, "severity must be a whole number from 1 to 5, not 6"),
        ({"severities": [0]}, "from 1 to 5, not 0"),
        ({"severities": [True]}, "from 1 to 5, not True"),
    ],
)
def test_what_is_not_there_cannot_be_asked_for(tmp_path, asked, sentence):
    folder_of(tmp_path / "arrays")
    tree(tmp_path / "tree")
    for top in ("arrays", "tree"):
        with pytest.raises(InputError, match=sentence):
            read_corrupted_set(tmp_path / top, **asked)


# --- order


def test_labels_are_compared_with_the_clean_ones_by_id(tmp_path):
    y = np.array([4, 1, 1, 3, 0, 2, 4, 3, 1, 2])
    data = read_corrupted_set(folder_of(tmp_path / "toy", y=np.tile(y, 5)))
    ids = torch.tensor([6, 2, 9])
    some_clean = Images("npz:x", "test", torch.zeros(3, 3, 32, 32, dtype=torch.uint8), torch.from_numpy(y)[ids], ids, data.classes)
    assert clean_image_rows(data, some_clean).tolist() == [6, 2, 9]
    shifted = some_clean.take(torch.tensor([0, 1, 2]))
    shifted.y[1] = 2
    with pytest.raises(InputError, match=r"labels of 1 of 3 images differ, as of image 2 \(1 in folder:toy-c and 2 in npz:x\)"):
        clean_image_rows(data, shifted)
    with pytest.raises(InputError, match="no image with index 11"):
        clean_image_rows(data, Images("npz:x", "test", some_clean.x, some_clean.y, ids + 2, data.classes))
    with pytest.raises(InputError, match=r"3x32x32 in folder:toy-c and 1x32x32 in npz:x"):
        clean_image_rows(data, Images("npz:x", "test", some_clean.x[:, :1], some_clean.y, ids, data.classes))


@pytest.mark.realdata
def test_the_official_order_is_that_of_the_real_images(tmp_path, data_dir):
    if not (data_dir / "cifar10-lossless.npz").exists():
        pytest.skip("no cifar10-lossless.npz in ROBENCH_DATA")
    images = load_images(f"npz:{data_dir / 'cifar10-lossless.npz'}")
    assert images.y[:10].tolist() == OFFICIAL[10]
    assert read_corrupted_set(released(tmp_path / "alone")).kind == "other"
    black = read_corrupted_set(released(tmp_path / "black"))
    assert torch.equal(clean_image_rows(black, images.take(slice(0, 10))), torch.arange(10))
    with pytest.raises(InputError, match="one of the two is in another order"):
        clean_image_rows(black, images)


# --- trees


@pytest.mark.parametrize("nested", [False, True])
def test_a_tree_is_read_by_class_and_only_the_chosen_files_are_decoded(tmp_path, nested):
    top = tmp_path / "toy"
    tree(top / "weather" if nested else top, ("snow", "fog"))
    (next(top.rglob("fog")) / "2" / "n01" / "v_1.png").write_bytes(b"broken")
    data = read_corrupted_set(top)
    assert (data.name, data.kind, data.corruptions, data.shape) == ("folder:toy-c", "other", ("snow", "fog"), (3, 64, 64))
    assert (data.ids.tolist(), data.y.tolist(), data.classes) == ([0, 3, 1, 4, 2], [0, 1, 0, 1, 0], ("n01", "n02"))
    images = data.load("fog", 2, data.rows(Choice(n=2)))
    assert images.x[:, :2, 0, 0].tolist() == [[0, 2], [3, 2]]
    assert (images.ids.tolist(), images.y.tolist()) == ([0, 3], [0, 1])
    assert data.load("fog", 2, torch.arange(0)).x.shape == (0, 3, 64, 64)
    with pytest.raises(InputError, match=r"fog/2/n01/v_1\.png cannot be read as an image"):
        data.load("fog", 2, data.rows(Choice()))


def test_severities_that_are_not_there_are_not_used_but_each_corruption_must_have_the_same(tmp_path):
    tree(tmp_path / "toy", ("snow",), (1, 3))
    assert read_corrupted_set(tmp_path / "toy").severities == (1, 3)
    with pytest.raises(InputError, match=r"snow/5 is not there"):
        read_corrupted_set(tmp_path / "toy", severities=[5])
    tree(tmp_path / "toy", ("fog",), (1,))
    with pytest.raises(InputError, match=r"fog/3 is not there"):
        read_corrupted_set(tmp_path / "toy")
    assert read_corrupted_set(tmp_path / "toy", severities=[1]).corruptions == ("snow", "fog")


def test_trees_whose_classes_or_files_differ_are_refused_where_they_are_used(tmp_path):
    tree(tmp_path, ("snow", "fog"))
    (tmp_path / "fog" / "4" / "n02" / "v_0.png").rename(tmp_path / "fog" / "4" / "n02" / "w.png")
    data = read_corrupted_set(tmp_path)
    assert data.load("fog", 3, torch.arange(1)).ids.tolist() == [0]
    with pytest.raises(InputError, match=r"snow/1 has n02/v_0\.png and .*fog/4 has not \(2 files differ\)"):
        data.load("fog", 4, torch.arange(1))
    (tmp_path / "fog" / "5" / "n00").mkdir()
    with pytest.raises(InputError, match=r"fog/5 has the class n00 and .*snow/1 has not: labels would shift"):
        read_corrupted_set(tmp_path)
    assert read_corrupted_set(tmp_path, ["snow"]).corruptions == ("snow",)
    tree(tmp_path / "group", ("snow",))
    with pytest.raises(InputError, match=r"holds snow twice"):
        read_corrupted_set(tmp_path)


def deep(path):
    """A PNG file of 16 bits a channel, which Pillow opens as if it had 8."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header, rows = struct.pack(">IIBBBBB", 64, 64, 16, 2, 0, 0, 0), (b"\0" + b"\x12\x34" * 3 * 64) * 64
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))


@pytest.mark.parametrize(
    ("make", "sentence"),
    [
        (lambda path: Image.new("RGBA", (64, 64)).save(path), "mode RGBA"),
        (lambda path: Image.new("LA", (64, 64)).save(path), "mode LA"),
        (lambda path: Image.new("RGB", (64, 64)).quantize(4).save(path), "mode P"),
        (lambda path: Image.fromarray(np.full((64, 64), 40000, np.uint16)).save(path), "16 bits a channel"),
        (deep, "16 bits a channel"),
        (lambda path: path.write_bytes(b""), "cannot be read as an image"),
        (lambda path: Image.new("RGB", (64, 60)).save(path), r"v_1\.png is 64x60, and others are 64x64"),
    ],
)
def test_images_of_another_kind_or_size_are_refused(tmp_path, make, sentence):
    top = tree(tmp_path / "toy")
    make(top / "fog" / "1" / "n01" / "v_1.png")
    with pytest.raises(InputError, match=sentence):
        read_corrupted_set(top).load("fog", 1, torch.arange(5))


def test_grey_images_become_rgb_and_large_ones_are_cut_and_never_resized(tmp_path):
    top = tree(tmp_path / "toy", severities=(1,), size=(299, 230))
    ramp = np.arange(299, dtype=np.int64)[None, :] + np.arange(230)[:, None]
    for file in top.rglob("*.png"):
        Image.fromarray((ramp % 256).astype(np.uint8)).save(file)
    data = read_corrupted_set(top)
    x = data.load("fog", 1, torch.arange(2)).x
    assert data.shape == (3, 224, 224)
    assert np.array_equal(x[1, 2].numpy(), (ramp[3:227, 38:262] % 256).astype(np.uint8))  # (299 - 224) / 2 = 37.5 goes to 38
    assert torch.equal(x[:, 0], x[:, 1])


def test_the_cut_is_that_of_torchvision():
    transforms = pytest.importorskip("torchvision.transforms")
    for size in ((224, 224), (225, 224), (299, 299), (227, 301), (256, 500)):
        image = torch.arange(3 * size[0] * size[1]).view(3, *size)
        assert torch.equal(centre_crop(image), transforms.CenterCrop(224)(image))
    assert centre_crop(torch.zeros(3, 64, 300)).shape == (3, 64, 300)


def test_a_tree_is_named_after_its_folder_and_says_whose_layout_it_has(tmp_path, monkeypatch):
    monkeypatch.setattr("robench.data.corrupted_trees.TREES", {(2, 5, 64): "tiny-imagenet-c"})
    data = read_corrupted_set(tree(tmp_path / "a"))
    assert (data.name, data.kind, data.layout) == ("folder:a-c", "other", "tiny-imagenet-c")
    assert "a has the layout of Tiny-ImageNet-C and is named after its folder" in data.notes[0]
    assert read_corrupted_set(tree(tmp_path / "c", per_class={"n01": 3, "n02": 3})).name == "folder:c-c"
    assert read_corrupted_set(tree(tmp_path / "d", size=(60, 60))).name == "folder:d-c"


def test_empty_trees_are_refused_and_stray_folders_noted(tmp_path):
    (tmp_path / "empty" / "fog" / "1" / "n01").mkdir(parents=True)
    with pytest.raises(InputError, match=r"fog/1 is empty"):
        read_corrupted_set(tmp_path / "empty")
    tree(tmp_path / "toy")
    (tmp_path / "toy" / "mist" / "1").mkdir(parents=True)
    assert read_corrupted_set(tmp_path / "toy").notes == ("left out of toy, for they are none of the 19 corruptions: mist",)


# --- which layout


def test_the_layout_is_told_from_the_folder(tmp_path):
    assert corrupted_set_layout(folder_of(tmp_path / "in" / "arrays")) == "arrays"
    assert corrupted_set_layout(tree(tmp_path / "tree")) == "tree"
    assert corrupted_set_layout(tree(tmp_path / "grouped" / "weather").parent) == "tree"
    with pytest.raises(InputError, match=r"is no corrupted set.*did you mean .*in/arrays\?"):
        corrupted_set_layout(tmp_path / "in")
    (tmp_path / "nothing").mkdir()
    with pytest.raises(InputError, match=r"holds neither CORRUPTION\.npy nor CORRUPTION/SEVERITY/CLASS/\*$"):
        corrupted_set_layout(tmp_path / "nothing")
    for wrong in (tmp_path / "absent", tmp_path / "in" / "arrays" / "fog.npy"):
        with pytest.raises(InputError, match="is not a folder"):
            read_corrupted_set(wrong)


# --- export


def corrupted(images, severity):
    """What stands for a corruption here: whole grey levels as floats, another change at each severity."""
    return (images.x.float() + 40 * severity).remainder(256).floor() / 255


def write(folder, images, corruption="fog", seed=0):
    """All five severities, in chunks and out of order."""
    with prepare_export(folder, images, seed=seed, scale="cifar").array_writer(corruption) as put:
        for severity in (3, 1, 2, 5, 4):
            for places in torch.arange(len(images)).flip(0).split(4):
                put(severity, places, corrupted(images.take(places), severity))


@pytest.mark.parametrize("channels", [1, 3])
def test_what_is_written_is_read_again_to_the_last_byte(tmp_path, channels):
    images = clean(channels=channels)
    write(tmp_path / "out", images)
    data = read_corrupted_set(tmp_path / "out")
    assert (data.name, data.kind, data.shape, data.split) == ("toy-c-synth", "made", (channels, 32, 32), "test")
    assert (data.made["seed"], data.made["scale"], data.made["images"]) == (0, "cifar", images.sha256)
    assert torch.equal(clean_image_rows(data, images), torch.arange(N))
    for severity in SEVERITIES:
        again = data.load("fog", severity, data.rows(Choice(n=6)))
        assert torch.equal(again.x, (corrupted(images, severity)[:6] * 255).round().to(torch.uint8))
        assert (again.ids.tolist(), again.y.tolist()) == (images.ids[:6].tolist(), images.y[:6].tolist())


def test_the_files_are_as_other_tools_expect_them(tmp_path):
    images = clean(channels=1)
    write(tmp_path, images)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["fog.npy", "labels.npy", "robench.json"]
    x, y = np.load(tmp_path / "fog.npy"), np.load(tmp_path / "labels.npy")
    assert (x.shape, x.dtype, y.shape, y.dtype) == ((50, 32, 32, 3), np.uint8, (50,), np.uint8)
    assert np.array_equal(y[20:30], images.y.numpy())
    level = (corrupted(images, 3) * 255).round().numpy()
    assert np.array_equal(x[20:30], np.repeat(level.transpose(0, 2, 3, 1), 3, 3))
    many = clean(classes=300)
    prepare_export(tmp_path / "many", many, seed=0, scale="cifar")
    assert np.load(tmp_path / "many" / "labels.npy").dtype == np.int64


def test_every_grey_level_survives_as_float_and_as_byte(tmp_path):
    levels = torch.arange(256, dtype=torch.uint8).view(1, 1, 16, 16)
    images = Images("toy", "test", levels, torch.zeros(1, dtype=torch.int64), torch.zeros(1, dtype=torch.int64), ("a",))
    with prepare_export(tmp_path, images, seed=0, scale="cifar").array_writer("snow") as put:
        for severity in SEVERITIES:
            put(severity, torch.arange(1), levels if severity % 2 else levels.float() / 255)
    data = read_corrupted_set(tmp_path)
    assert all(torch.equal(data.load("snow", severity, torch.arange(1)).x, levels) for severity in SEVERITIES)


def test_a_set_of_ours_of_the_released_shape_is_not_called_released(tmp_path):
    top = released(tmp_path / "cifar10-c")
    about = {"name": "cifar10-c-synth", "split": "test", "channels": 3, "ids": list(range(10_000)), "classes": list("abcdefghij")}
    (top / "robench.json").write_text(json.dumps(about))
    assert (read_corrupted_set(top).name, read_corrupted_set(top).kind) == ("cifar10-c-synth", "made")


@pytest.mark.parametrize(
    "change",
    [
        {"name": "cifar10-c"}, {"ids": [1, 1]}, {"ids": list(range(9))}, {"ids": None}, {"ids": [10**30] * 10}, {"classes": ["a"]},
        {"classes": [1] * 10}, {"channels": 4}, {"split": 3},
    ],
)  # fmt: skip
def test_a_json_that_does_not_fit_is_refused(tmp_path, change):
    write(tmp_path, clean())
    path = tmp_path / "robench.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(InputError, match=r"robench\.json (does not describe|speaks of)"):
        read_corrupted_set(tmp_path)
    path.write_text("[" * 7)
    with pytest.raises(InputError, match=r"robench\.json cannot be read"):
        read_corrupted_set(tmp_path)


def test_nothing_is_overwritten_and_a_finished_corruption_can_be_passed_over(tmp_path):
    write(tmp_path, clean())
    before = (tmp_path / "fog.npy").read_bytes()
    target = prepare_export(tmp_path, clean(), seed=0, scale="cifar")
    assert (target.has_corruption("fog"), target.has_corruption("snow")) == (True, False)
    with pytest.raises(InputError, match=r"fog\.npy is there already"), target.array_writer("fog"):
        pass
    write(tmp_path, clean(), "snow")
    assert read_corrupted_set(tmp_path).corruptions == ("snow", "fog")
    for other, seed, scale, words in (
        (clean(), 1, "cifar", "with another seed"),
        (clean(), 0, "imagenet", "at another scale"),
        (clean(seed=2), 0, "cifar", "of other images"),
    ):
        with pytest.raises(InputError, match=f"holds a set made {words}: choose another folder, or pass --force"):
            prepare_export(tmp_path, other, seed=seed, scale=scale)
    assert (tmp_path / "fog.npy").read_bytes() == before
    with pytest.raises(InputError, match=r"holds fog\.npy, which robench did not write"):
        prepare_export(folder_of(tmp_path / "theirs"), clean(), seed=0, scale="cifar")
    with pytest.raises(InputError, match="unknown corruption of the released layout 'mist'"):
        target.has_corruption("mist")


def test_frost_photos_must_be_the_same_where_frost_is_made(tmp_path):
    prepare_export(tmp_path, clean(), seed=0, scale="cifar", frost="photos", photos="one")
    for frost, photos, words in (("photos", "other", "with other frost photos"), ("procedural", "", "with other frost")):
        with pytest.raises(InputError, match=f"holds a set made {words}: choose another"):
            prepare_export(tmp_path, clean(), seed=0, scale="cifar", frost=frost, photos=photos)
    prepare_export(tmp_path, clean(), seed=0, scale="cifar", frost=None)
    assert json.loads((tmp_path / "robench.json").read_text())["photos"] == "one"


def whole(target, corruption, images):
    """Writes images as they are at all severities of a corruption."""
    with target.array_writer(corruption) as put:
        for severity in SEVERITIES:
            put(severity, torch.arange(len(images)), images.x)


def test_a_set_is_replaced_when_the_new_one_is_whole_and_not_before(tmp_path):
    for name in ("fog", "snow"):
        whole(prepare_export(tmp_path, clean(), seed=0, scale="cifar"), name, clean())
    target = prepare_export(tmp_path, clean(seed=2), seed=0, scale="cifar", force=True)
    whole(target, "fog", clean(seed=2))
    assert read_corrupted_set(tmp_path).corruptions == ("snow", "fog")
    assert read_corrupted_set(tmp_path).load("fog", 1, torch.arange(N)).x.equal(clean().x)
    again = prepare_export(tmp_path, clean(seed=2), seed=0, scale="cifar", force=True)  # after a kill
    assert again.has_corruption("fog")
    prepare_export(tmp_path, clean(seed=3), seed=0, scale="cifar", force=True)  # after a kill, and with a third set
    again = prepare_export(tmp_path, clean(seed=2), seed=0, scale="cifar", force=True)
    assert not again.has_corruption("fog")
    whole(again, "fog", clean(seed=2))
    assert again.replace_earlier_set() == tmp_path
    data = read_corrupted_set(tmp_path)
    assert data.corruptions == ("fog",)
    assert data.load("fog", 5, torch.arange(N)).x.equal(clean(seed=2).x)
    assert {path.name for path in tmp_path.iterdir()} == {"fog.npy", "labels.npy", "robench.json"}


def test_a_replacement_that_is_killed_as_it_moves_in_is_nobodys_set_and_can_be_gone_on_with(tmp_path, monkeypatch):
    write(tmp_path, clean())
    target = prepare_export(tmp_path, clean(seed=2), seed=0, scale="cifar", force=True)
    whole(target, "snow", clean(seed=2))
    moved = Path.replace

    def killed(path, to):
        if path.name == "snow.npy":
            raise KeyboardInterrupt
        return moved(path, to)

    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        target.replace_earlier_set()
    monkeypatch.undo()
    assert not (tmp_path / "robench.json").exists()
    target = prepare_export(tmp_path, clean(seed=2), seed=0, scale="cifar")
    assert target.has_corruption("snow")
    target.replace_earlier_set()
    assert read_corrupted_set(tmp_path).load("snow", 5, torch.arange(N)).x.equal(clean(seed=2).x)


def test_a_corruption_that_is_not_whole_leaves_no_file(tmp_path):
    images = clean()
    target = prepare_export(tmp_path, images, seed=0, scale="cifar")
    with pytest.raises(InputError, match="it lacks 46 of 50 images, first image 0"), target.array_writer("fog") as put:
        put(5, torch.arange(4), images.x[:4])
    with pytest.raises(KeyError), target.array_writer("fog") as put:
        {}[put(1, torch.arange(N), images.x)]
    for wrong in (images.x[:, :, :8], images.x[:1]):
        with pytest.raises(InputError, match="cannot store x"), target.array_writer("fog") as put:
            put(1, torch.arange(N), wrong)
    with pytest.raises(InputError, match="severity must be"), target.array_writer("fog") as put:
        put(6, torch.arange(N), images.x)
    assert {path.name for path in tmp_path.iterdir()} == {"labels.npy", "robench.json"}
    with pytest.raises(InputError, match="holds none of the 19 corruptions"):
        read_corrupted_set(tmp_path)


KILLED = """
import os, signal, sys
from pathlib import Path
import torch
from robench.data import Images
from robench.data.export import prepare_export
n = torch.arange(4)
images = Images("toy", "test", torch.full((4, 3, 8, 8), 9, dtype=torch.uint8), n % 2, n, ("a", "b"))
with prepare_export(Path(sys.argv[1]), images, seed=0, scale="cifar").array_writer("fog") as put:
    for severity in (1, 2, 3, 4, 5):
        put(severity, n, images.x)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_run_killed_before_the_end_leaves_no_file_of_that_name_and_the_next_one_tidies_up(tmp_path):
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=False, capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    left = sorted(path.name for path in tmp_path.iterdir())
    assert left[1:] == ["labels.npy", "robench.json"]
    assert left[0].startswith(".fog.npy.")
    with pytest.raises(InputError, match="holds none of the 19 corruptions"):
        read_corrupted_set(tmp_path)
    mine = tmp_path / f".snow.npy.{os.getpid()}.tmp"
    mine.write_bytes(b"under way")
    n = torch.arange(4)
    images = Images("toy", "test", torch.full((4, 3, 8, 8), 9, dtype=torch.uint8), n % 2, n, ("a", "b"))
    write(tmp_path, images)
    assert sorted(path.name for path in tmp_path.iterdir()) == [mine.name, "fog.npy", "labels.npy", "robench.json"]


def test_a_full_disk_is_a_sentence_before_anything_is_made(tmp_path, monkeypatch):
    def full(handle, offset, size):
        raise OSError(errno.ENOSPC, "No space left on device")

    target = prepare_export(tmp_path, clean(), seed=0, scale="cifar")
    monkeypatch.setattr(os, "posix_fallocate", full, raising=False)
    with pytest.raises(InputError, match="No space left on device"), target.array_writer("fog"):
        pytest.fail("there is no room")
    assert {path.name for path in tmp_path.iterdir()} == {"labels.npy", "robench.json"}


def test_a_place_that_cannot_be_written_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write"):
        prepare_export(tmp_path / "file", clean(), seed=0, scale="cifar")
    with pytest.raises(InputError, match="has 2 channels"):
        prepare_export(tmp_path, clean(channels=2), seed=0, scale="cifar")
