"""Loading: layouts of npz files and folders, which images are chosen, what is refused, and that nothing is fetched unasked."""

import hashlib
import os
import pickle
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import datasets

from robench import data
from robench.core.errors import InputError
from robench.core.preprocessing import Preprocessing
from robench.data import Images, files, holdout, load_images
from robench.data.images import resized_crops
from robench.data.layouts import ENDINGS

OFFICIAL = ("cifar10", "cifar100", "svhn", "mnist", "fashion-mnist")


@pytest.fixture(autouse=True)
def offline(monkeypatch):
    """Any attempt to fetch something is an error of the network."""

    def refuse(*args, **kwargs):
        raise urllib.error.URLError("no network in tests")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)


def some(n=12, size=5, channels=3, classes=4):
    """Random images NHWC uint8 and their labels 0, 1, ..., 0, 1, ..."""
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (n, size, size, channels), dtype=np.uint8), np.arange(n) % classes


def saved(path, **arrays):
    np.savez(path, **arrays)
    return f"npz:{path}"


def tree(top, per_class, size=(6, 4)):
    """An image folder; the red of each image tells its place in the list sorted by class and file."""
    place = 0
    for kind, count in sorted(per_class.items()):
        (top / kind).mkdir(parents=True)
        for number in range(count):
            Image.new("RGB", size, (place, 0, 255)).save(top / kind / f"{number:04d}.png")
            place += 1
    return top


def images(n=100, classes=10):
    y = torch.arange(n) % classes
    return Images("toy", "train", torch.zeros(n, 1, 2, 2), y, 3 * torch.arange(n), tuple("abcdefghij"[:classes]))


# --- Images


def test_pixels_are_floats_between_0_and_1_for_both_types():
    bytes_ = torch.tensor([0, 51, 255], dtype=torch.uint8).view(3, 1, 1, 1)
    toy = Images("toy", "test", bytes_, torch.zeros(3, dtype=torch.int64), torch.arange(3), ("a",))
    assert toy.pixels(torch.tensor([2, 1])).flatten().tolist() == pytest.approx([1.0, 0.2])
    floats = Images("toy", "test", bytes_ / 255, toy.y, toy.ids, ("a",))
    assert torch.equal(floats.pixels(slice(None)), toy.pixels(slice(None)))
    assert (len(toy), toy.shape) == (3, (1, 1, 1))


def test_take_keeps_images_labels_ids_and_masks_together():
    shapes = load_images("shapes", n=20)
    few = shapes.take(torch.tensor([7, 3]))
    assert few.ids.tolist() == [7, 3]
    assert torch.equal(few.x[1], shapes.x[3])
    assert torch.equal(few.y, shapes.y[[7, 3]])
    assert torch.equal(few.masks[0], shapes.masks[7])
    assert torch.equal(shapes.take(shapes.ids < 5).ids, torch.arange(5))
    assert torch.equal(few.to("cpu").masks, few.masks)


def test_the_digest_changes_with_pixels_labels_and_ids_and_with_nothing_else():
    toy = load_images("shapes", n=20)
    same = Images("other", "train", toy.x.clone(), toy.y.clone(), toy.ids.clone(), ("a",))
    assert same.sha256 == toy.sha256
    pixel = toy.x.clone()
    pixel[3, 0, 0, 0] ^= 1
    others = [Images("shapes", "test", *parts, toy.classes).sha256 for parts in [(pixel, toy.y, toy.ids), (toy.x, toy.y, toy.ids + 1)]]
    assert len({toy.sha256, *others, toy.take(slice(0, 19)).sha256}) == 4


# --- which images


def test_n_takes_the_first_and_all_is_the_default():
    assert load_images("shapes", n=30).ids.tolist() == list(range(30))
    assert len(load_images("shapes")) == 2000


def test_shuffle_draws_with_the_seed_and_a_smaller_n_is_the_beginning_of_a_larger(tmp_path):
    x, y = some(200)
    name = saved(tmp_path / "toy.npz", x=x, y=y)
    drawn = load_images(name, n=50, shuffle=True, seed=1)
    assert len(set(drawn.ids.tolist())) == 50
    assert drawn.ids.max() >= 100
    assert torch.equal(load_images(name, n=20, shuffle=True, seed=1).ids, drawn.ids[:20])
    assert not torch.equal(load_images(name, n=50, shuffle=True, seed=2).ids, drawn.ids)
    assert torch.equal(drawn.x, torch.from_numpy(x).permute(0, 3, 1, 2)[drawn.ids])


def test_indices_choose_by_id_in_the_order_of_the_file(tmp_path):
    x, y = some(6)
    name = saved(tmp_path / "toy.npz", x_test=x, y_test=y, test_index=np.array([50, 40, 30, 20, 10, 0]))
    (tmp_path / "few.txt").write_text("10\n50\n\n30\n")
    few = load_images(name, indices=tmp_path / "few.txt")
    assert few.ids.tolist() == [10, 50, 30]
    assert few.y.tolist() == [y[4], y[0], y[2]]
    assert load_images(name, indices=tmp_path / "few.txt", n=2).ids.tolist() == [10, 50]
    far = tmp_path / "far.txt"
    far.write_text("999999999\n5")
    assert load_images("shapes", indices=far).ids.tolist() == [999999999, 5]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("1\ntwo\n", "line 2 .* is 'two'"),
        ("-1\n", "whole number from 0"),
        ("1 2\n", "line 1"),
        ("3\n3\n", "names an index twice"),
        ("\n\n", "is empty"),
        ("7\n", "no image with index 7: its indices lie between 0 and 5"),
        ("1.0\n", "line 1"),
    ],
)
def test_a_bad_index_file_is_refused(tmp_path, text, sentence):
    x, y = some(6)
    (tmp_path / "few.txt").write_text(text)
    with pytest.raises(InputError, match=sentence):
        load_images(saved(tmp_path / "toy.npz", x=x, y=y), indices=tmp_path / "few.txt")


def test_a_missing_or_binary_index_file_is_refused(tmp_path):
    with pytest.raises(InputError, match="there is no index file"):
        load_images("shapes", indices=tmp_path / "none.txt")
    (tmp_path / "bytes.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="is no text"):
        load_images("shapes", indices=tmp_path / "bytes.txt")


@pytest.mark.parametrize("n", [0, -3])
def test_n_below_1_is_refused(n):
    with pytest.raises(InputError, match="n must be at least 1"):
        load_images("shapes", n=n)


def test_more_images_than_there_are_is_refused_and_says_how_many_there_are(tmp_path):
    x, y = some(6)
    name = saved(tmp_path / "toy.npz", x=x, y=y)
    with pytest.raises(InputError, match="has 6: n = 7"):
        load_images(name, n=7)
    (tmp_path / "few.txt").write_text("1\n2")
    with pytest.raises(InputError, match="lists 2: n = 3"):
        load_images(name, n=3, indices=tmp_path / "few.txt")


def test_at_most_takes_the_first_and_is_content_with_fewer(tmp_path):
    x, y = some(6)
    name = saved(tmp_path / "toy.npz", x=x, y=y)
    assert load_images(name, at_most=4).ids.tolist() == [0, 1, 2, 3]
    assert len(load_images(name, at_most=100)) == 6


def test_a_choice_by_class_has_the_same_share_of_each_class_from_any_source(tmp_path):
    x, y = some(40)
    y.sort()
    name = saved(tmp_path / "toy.npz", x=x, y=y)
    chosen = load_images(name, n=20, by_class=True, seed=1)
    assert chosen.y.bincount().tolist() == [5] * 4
    assert chosen.ids.tolist() == sorted(chosen.ids.tolist())
    assert chosen.y.tolist() == y[chosen.ids.numpy()].tolist()
    drawn = [load_images(name, n=20, by_class=True, seed=seed).ids.tolist() for seed in (1, 2)]
    assert chosen.ids.tolist() == drawn[0] != drawn[1]
    assert load_images(name, n=20).ids.tolist() == list(range(20))
    assert load_images("shapes", "train", n=30, by_class=True).y.bincount().tolist() == [3] * 10
    tree(tmp_path / "tree", {"cat": 6, "dog": 2})
    assert load_images(f"folder:{tmp_path}/tree", n=4, by_class=True).y.bincount().tolist() == [3, 1]


def test_an_unknown_name_gets_a_suggestion():
    with pytest.raises(InputError, match="unknown data set 'cifar-10': did you mean 'cifar10'"):
        load_images("cifar-10")
    with pytest.raises(InputError, match="unknown data set 'npz': did you mean 'npz:PATH'"):
        load_images("npz")
    with pytest.raises(InputError, match="unknown data set 'zip:x'"):
        load_images("zip:x")
    assert set(data.DATASET_SUMMARIES) == set(data.DATASETS) | {f"{kind}:PATH" for kind in data.FORMATS} | {"file.py:function"}


def test_an_image_size_below_1_is_refused():
    with pytest.raises(InputError, match="at least 1 pixel"):
        load_images("shapes", n=1, image_size=0)


def test_images_too_large_for_the_memory_are_refused_before_they_are_made(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="at most 4096 pixels, not 100000"):
        load_images("shapes", n=1, image_size=100_000)
    monkeypatch.setattr("robench.data.images.machine_memory", lambda: 1e6)
    with pytest.raises(InputError, match=r"shapes: 20 images of 3x100x100 take 0\.0 GB, more than half of the memory"):
        load_images("shapes", n=20, image_size=100)
    Image.fromarray(np.zeros((10, 100_000), dtype=np.uint8)).save(tmp_path / "long.png")
    with pytest.raises(InputError, match="an image of 10x100000 becomes 100 by 1000000 pixels"):
        files.read_image(tmp_path / "long.png", Preprocessing(100, (10, 10)))


@pytest.mark.parametrize("shape", [(4, 0, 8, 3), (4, 3, 8, 0), (4, 0, 8)])
def test_images_without_pixels_are_refused(tmp_path, shape):
    np.savez(tmp_path / "none.npz", x=np.zeros(shape, dtype=np.uint8), y=np.arange(4))
    with pytest.raises(InputError, match="no pixels"):
        load_images(f"npz:{tmp_path / 'none.npz'}")


# --- npz


@pytest.mark.parametrize("layout", ["NHWC", "NCHW", "grey", "one-channel"])
def test_every_layout_gives_the_same_images(tmp_path, layout):
    x, y = some(channels=3 if layout.startswith("N") else 1)
    stored = {"NHWC": x, "NCHW": x.transpose(0, 3, 1, 2), "grey": x[..., 0], "one-channel": x}[layout]
    loaded = load_images(saved(tmp_path / "toy.npz", x_test=stored, y_test=y))
    assert torch.equal(loaded.x, torch.from_numpy(x.transpose(0, 3, 1, 2).copy()))
    assert loaded.x.is_contiguous()
    assert loaded.x.dtype == torch.uint8
    assert (loaded.name, loaded.split, loaded.ids.tolist()) == ("npz:toy", "test", list(range(12)))


@pytest.mark.parametrize("dtype", [np.float32, np.float64, ">f4"])
def test_float_pixels_become_float32(tmp_path, dtype):
    x, y = some()
    loaded = load_images(saved(tmp_path / "toy.npz", x=(x / 255).astype(dtype), y=y.astype(np.uint8)))
    assert loaded.x.dtype == torch.float32
    assert torch.equal((loaded.x * 255).round().to(torch.uint8), torch.from_numpy(x.transpose(0, 3, 1, 2).copy()))
    assert loaded.y.dtype == torch.int64


def test_splits_have_their_own_ids_and_share_the_classes(tmp_path):
    x, y = some()
    name = saved(tmp_path / "toy.npz", x_train=x, y_train=y, x_test=x[:2], y_test=y[:2], train_index=np.arange(12, dtype=np.int32) + 100)
    assert load_images(name, "train").ids.tolist() == list(range(100, 112))
    assert load_images(name, "test").classes == load_images(name, "train").classes == ("0", "1", "2", "3")


def test_a_file_without_splits_is_used_whole_and_says_so(tmp_path):
    x, y = some()
    name = saved(tmp_path / "toy.npz", x=x, y=y, classes=np.array(["a", "b", "c", "d"]))
    assert load_images(name, "train").split == load_images(name, "test").split == "all"
    assert load_images(name).classes == ("a", "b", "c", "d")


def test_a_relative_path_is_also_looked_up_in_the_data_dir(tmp_path):
    x, y = some()
    saved(tmp_path / "toy.npz", x=x, y=y)
    assert len(load_images("npz:toy.npz", data_dir=tmp_path)) == 12


X, Y = some()


@pytest.mark.parametrize(
    ("arrays", "sentence"),
    [
        ({"x_train": X, "y_train": Y}, "no images and labels for 'test': it holds .*needs x_test and y_test"),
        ({"x": X}, "and needs x_test and y_test, or x and y"),
        ({"x": X, "y": Y.astype(float)}, "must be whole numbers"),
        ({"x": X, "y": np.eye(12, dtype=int)}, "must be whole numbers of shape"),
        ({"x": X, "y": Y[:3]}, "12 images, 3 labels"),
        ({"x": X, "y": Y - 1}, "labels are whole numbers from 0, and the smallest of these is -1"),
        ({"x": X, "y": Y, "classes": np.array(["a", "b"])}, "labels must lie between 0 and 1"),
        ({"x": X, "y": Y, "classes": np.arange(4)}, "array of strings"),
        ({"x": X, "y": Y, "index": np.zeros(12, int)}, "stands for more than one image"),
        ({"x": X, "y": Y, "index": np.arange(3)}, "3 indices"),
        ({"x": X.astype(np.int16), "y": Y}, "pixels are int16"),
        ({"x": X.astype(np.float32), "y": Y}, "must lie in \\[0, 1\\], and these span 0 to 255"),
        ({"x": np.full((12, 4, 4), np.nan, np.float32), "y": Y}, "must lie in \\[0, 1\\]"),
        ({"x": X.reshape(12, -1), "y": Y}, "images have shape"),
        ({"x": np.float32(3), "y": Y}, "images have shape"),
        ({"x": np.zeros((12, 3, 8, 3), np.uint8), "y": Y}, "two axes could be"),
        ({"x": np.zeros((12, 8, 8, 4), np.uint8), "y": Y}, "no axis could be"),
        ({"x": X[:0], "y": Y[:0]}, "is empty"),
        ({"x": X, "y": np.array([{}] * 12)}, "cannot be read"),
    ],
)
def test_a_file_with_something_wrong_is_refused(tmp_path, arrays, sentence):
    with pytest.raises(InputError, match=sentence):
        load_images(saved(tmp_path / "toy.npz", **arrays))


def test_a_missing_or_damaged_file_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"not found here or in .*--data-dir"):
        load_images("npz:nowhere.npz", data_dir=tmp_path)
    path = tmp_path / "toy.npz"
    whole = Path(saved(path, x=X, y=Y).removeprefix("npz:")).read_bytes()
    flipped = bytearray(whole)
    flipped[200] ^= 255  # inside the pixels: the checksum tells
    np.save(tmp_path / "single.npy", X)
    for content in (whole[: len(whole) // 2], b"", b"text", pickle.dumps({}), bytes(flipped), (tmp_path / "single.npy").read_bytes()):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"not an npz file, or was cut short|cannot be read"):
            load_images(f"npz:{path}")


# --- folders


def test_the_first_images_of_a_folder_are_balanced_and_ids_follow_the_sorted_list(tmp_path):
    tree(tmp_path / "toy" / "test", {"cat": 3, "ant": 2, "bee": 1})
    loaded = load_images(f"folder:{tmp_path / 'toy'}")
    assert (loaded.name, loaded.split, loaded.classes) == ("folder:toy", "test", ("ant", "bee", "cat"))
    assert loaded.y.tolist() == [0, 1, 2, 0, 2, 2]
    assert loaded.ids.tolist() == [0, 2, 3, 1, 4, 5]
    assert loaded.x[:, 0, 0, 0].tolist() == loaded.ids.tolist()
    assert loaded.x.shape == (6, 3, 4, 6)
    assert load_images(f"folder:{tmp_path / 'toy'}", n=3).y.tolist() == [0, 1, 2]


def test_only_the_chosen_images_are_decoded(tmp_path):
    top = tree(tmp_path / "toy", {"a": 2, "b": 2})
    (top / "a" / "0001.png").write_bytes(b"broken")
    assert load_images(f"folder:{top}", n=2).y.tolist() == [0, 1]
    with pytest.raises(InputError, match=r"a/0001\.png cannot be read as an image"):
        load_images(f"folder:{top}")


def test_folders_without_splits_are_used_whole_and_say_so(tmp_path):
    top = tree(tmp_path / "toy", {"a": 1, "b": 1})
    assert load_images(f"folder:{top}", "train").split == "all"
    tree(top / "train", {"x": 0}).joinpath("x").rmdir()  # a folder called train without folders inside is a class
    Image.new("RGB", (6, 4)).save(top / "train" / "0.png")
    assert load_images(f"folder:{top}").classes == ("a", "b", "train")


def test_val_stands_in_for_test_and_a_class_missing_in_one_split_shifts_no_label(tmp_path):
    tree(tmp_path / "toy" / "train", {"a": 1, "b": 1, "c": 1})
    tree(tmp_path / "toy" / "val", {"c": 1})
    for split in ("test", "val"):
        assert load_images(f"folder:{tmp_path / 'toy'}", split).y.tolist() == [2]
    with pytest.raises(InputError, match="no split 'dev'"):
        load_images(f"folder:{tmp_path / 'toy'}", "dev")
    tree(tmp_path / "half" / "train", {"a": 1})
    with pytest.raises(InputError, match="no folder for the split 'test': it has train"):
        load_images(f"folder:{tmp_path / 'half'}")


def test_grey_palette_and_transparent_images_become_rgb(tmp_path):
    (tmp_path / "a").mkdir()
    colour = Image.new("RGBA", (4, 4), (10, 200, 30, 0))
    Image.new("L", (4, 4), 77).save(tmp_path / "a" / "0.png")
    colour.save(tmp_path / "a" / "1.png")
    colour.convert("RGB").quantize(4).save(tmp_path / "a" / "2.png", transparency=b"\x00\x80")
    Image.new("1", (4, 4), 1).save(tmp_path / "a" / "3.png")
    loaded = load_images(f"folder:{tmp_path}")
    assert loaded.x[:, :, 0, 0].tolist() == [[77] * 3, [10, 200, 30], [10, 200, 30], [255] * 3]


def test_sixteen_bit_images_are_refused(tmp_path):
    (tmp_path / "a").mkdir()
    Image.fromarray(np.full((4, 4), 40000, np.uint16)).save(tmp_path / "a" / "0.png")
    with pytest.raises(InputError, match="more than 8 bits"):
        load_images(f"folder:{tmp_path}")


def test_images_of_different_sizes_need_an_image_size(tmp_path):
    top = tree(tmp_path / "toy", {"a": 1}, size=(8, 12))
    tree(top, {"b": 1}, size=(16, 8))
    with pytest.raises(InputError, match=r"a/0000\.png is 8x12 and b/0000\.png is 16x8.*--image-size"):
        load_images(f"folder:{top}")
    assert load_images(f"folder:{top}", image_size=6).x.shape == (2, 3, 6, 6)


@pytest.mark.parametrize("cut", [False, True])
def test_unreadable_files_are_refused(tmp_path, cut):
    (tmp_path / "a").mkdir()
    file = tmp_path / "a" / "0.jpg"
    Image.effect_noise((40, 40), 50).save(file)
    file.write_bytes(file.read_bytes()[:500] if cut else b"")
    with pytest.raises(InputError, match=r"0\.jpg cannot be read"):
        load_images(f"folder:{tmp_path}")


def test_a_folder_without_images_is_refused(tmp_path):
    for name in ("a/x", "b"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "b" / "notes.txt").write_text("no image")
    with pytest.raises(InputError, match="holds no images: it has a, b"):
        load_images(f"folder:{tmp_path}")
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file and no folder"):
        load_images(f"folder:{tmp_path / 'file'}")


# --- size


def test_the_shorter_side_is_resized_and_the_longer_one_cut_evenly():
    ramp = torch.arange(12.0).view(1, 1, 1, 12).expand(1, 1, 6, 12) / 12
    assert torch.equal(resized_crops(ramp, Preprocessing(6, (6, 6))), ramp[..., 3:9])
    small = resized_crops(
        ramp, Preprocessing(2, (2, 2))
    )  # 4 columns of 3 pixels each, of which the middle two stay; their centres lie at columns 4 and 7
    assert torch.allclose(small, ramp[:, :, :2, 4:8:3], atol=1e-3)
    assert resized_crops(torch.full((1, 3, 5, 9), 200, dtype=torch.uint8), Preprocessing(20, (20, 20))).eq(200).all()


def test_the_image_size_holds_for_every_data_set_and_masks_follow():
    plain, large = load_images("shapes", n=5), load_images("shapes", n=5, image_size=64)
    assert large.shape == (3, 64, 64)
    assert large.x.dtype == torch.uint8
    assert torch.equal(large.masks[:, 1::2, 1::2] & plain.masks, large.masks[:, 1::2, 1::2])
    assert float(large.masks.float().mean()) == pytest.approx(float(plain.masks.float().mean()), rel=0.1)


# --- torchvision's sets


@pytest.mark.parametrize("name", OFFICIAL)
def test_nothing_is_fetched_unless_asked_for(tmp_path, monkeypatch, name):
    monkeypatch.setattr(urllib.request, "urlopen", lambda *args, **kwargs: pytest.fail("tried to fetch"))
    with pytest.raises(InputError, match=f"{name} not found in .*: pass --data-dir, or --download to fetch it"):
        load_images(name, data_dir=tmp_path / "none")
    assert not (tmp_path / "none").exists()


def test_a_failed_download_is_the_users_sentence(tmp_path):
    with pytest.raises(InputError, match="cifar10 could not be fetched"):
        load_images("cifar10", data_dir=tmp_path, download=True)


@pytest.mark.parametrize("name", OFFICIAL)
def test_an_unknown_split_is_refused(tmp_path, name):
    with pytest.raises(InputError, match="no split 'dev': choose one of test, train"):
        load_images(name, "dev", data_dir=tmp_path)


def cifar(top, monkeypatch, n=4):
    """A tiny set in CIFAR-10's format, under checksums of its own."""
    rng, folder = np.random.default_rng(0), top / datasets.CIFAR10.base_folder
    folder.mkdir()
    batch = {"data": rng.integers(0, 256, (n, 3072), dtype=np.uint8), "labels": [k % 10 for k in range(n)]}
    blobs = {"meta": pickle.dumps({"label_names": list("abcdefghij")}), "batch": pickle.dumps(batch)}
    md5 = {key: hashlib.md5(blob).hexdigest() for key, blob in blobs.items()}
    names = [name for name, _ in datasets.CIFAR10.train_list + datasets.CIFAR10.test_list]
    for name in names:
        (folder / name).write_bytes(blobs["batch"])
    (folder / "batches.meta").write_bytes(blobs["meta"])
    monkeypatch.setattr(datasets.CIFAR10, "train_list", [[name, md5["batch"]] for name in names[:-1]])
    monkeypatch.setattr(datasets.CIFAR10, "test_list", [[names[-1], md5["batch"]]])
    monkeypatch.setattr(datasets.CIFAR10, "meta", {"filename": "batches.meta", "key": "label_names", "md5": md5["meta"]})
    return batch["data"].reshape(-1, 3, 32, 32)


def test_cifar_is_read_channel_by_channel_and_checked(tmp_path, monkeypatch):
    pixels = cifar(tmp_path, monkeypatch)
    loaded = load_images("cifar10", data_dir=tmp_path)
    assert torch.equal(loaded.x, torch.from_numpy(pixels))
    assert (loaded.y.tolist(), loaded.classes) == ([0, 1, 2, 3], tuple("abcdefghij"))
    assert len(load_images("cifar10", "train", data_dir=tmp_path)) == 5 * 4
    batch = tmp_path / datasets.CIFAR10.base_folder / "test_batch"
    batch.write_bytes(batch.read_bytes()[:-1])
    with pytest.raises(InputError, match=r"cifar10 in .* is not as published: cifar-10-batches-py/test_batch has another md5"):
        load_images("cifar10", data_dir=tmp_path)
    batch.unlink()
    with pytest.raises(InputError, match="cifar-10-batches-py/test_batch is missing; fetch it again with --download"):
        load_images("cifar10", data_dir=tmp_path)


def idx(path, array):
    """An array of bytes in MNIST's file format."""
    header = bytes([0, 0, 8, array.ndim]) + b"".join(size.to_bytes(4, "big") for size in array.shape)
    path.write_bytes(header + array.tobytes())


def test_digits_have_one_channel_and_a_damaged_file_is_refused(tmp_path):
    raw = tmp_path / "MNIST" / "raw"
    raw.mkdir(parents=True)
    x = np.random.default_rng(0).integers(0, 256, (5, 28, 28), dtype=np.uint8)
    for part in ("train", "t10k"):
        idx(raw / f"{part}-images-idx3-ubyte", x)
        idx(raw / f"{part}-labels-idx1-ubyte", np.arange(5, dtype=np.uint8))
    loaded = load_images("mnist", data_dir=tmp_path, n=3)
    assert torch.equal(loaded.x, torch.from_numpy(x[:3, None]))
    assert (loaded.shape, loaded.y.tolist()) == ((1, 28, 28), [0, 1, 2])
    cut = raw / "t10k-images-idx3-ubyte"
    cut.write_bytes(cut.read_bytes()[:100])
    with pytest.raises(InputError, match=r"mnist in .* is damaged"):
        load_images("mnist", data_dir=tmp_path)


def test_house_numbers_keep_their_layout(tmp_path, monkeypatch):
    scipy_io = pytest.importorskip("scipy.io")
    x = np.random.default_rng(0).integers(0, 256, (32, 32, 3, 4), dtype=np.uint8)
    file = tmp_path / "test_32x32.mat"
    scipy_io.savemat(file, {"X": x, "y": np.array([[10], [1], [2], [9]], dtype=np.uint8)})
    monkeypatch.setattr(datasets.SVHN, "split_list", {"test": ["", file.name, hashlib.md5(file.read_bytes()).hexdigest()]})
    loaded = load_images("svhn", data_dir=tmp_path)
    assert torch.equal(loaded.x, torch.from_numpy(x.transpose(3, 2, 0, 1).copy()))
    assert loaded.y.tolist() == [0, 1, 2, 9]
    assert loaded.classes == tuple("0123456789")


# --- holdout


@pytest.mark.parametrize("share", [0.2, 20])
def test_the_held_out_part_has_the_same_share_of_each_class(share):
    kept, held = holdout(images(), share, seed=0)
    assert held.y.bincount().tolist() == [2] * 10
    assert sorted(kept.ids.tolist() + held.ids.tolist()) == images().ids.tolist()


def test_uneven_classes_are_rounded_by_largest_remainder():
    toy = images(10, 3)  # 4, 3 and 3 images: exact shares of 5 are 2.0, 1.5 and 1.5
    assert holdout(toy, 5, seed=0)[1].y.bincount().tolist() == [2, 2, 1]


def test_the_same_images_are_held_out_in_any_order_and_others_with_another_seed():
    toy = images()
    mixed = toy.take(torch.randperm(100, generator=torch.Generator().manual_seed(0)))
    held = {tuple(sorted(holdout(source, 30, seed=0)[1].ids.tolist())) for source in (toy, mixed)}
    assert len(held) == 1
    assert held != {tuple(holdout(toy, 30, seed=1)[1].ids.tolist())}


def test_nothing_may_be_held_out_but_not_everything():
    kept, held = holdout(images(), 0, seed=0)
    assert (len(kept), len(held)) == (100, 0)
    for wrong in (100, 101, -1, -0.1, 1.5, 1000.0):
        with pytest.raises(InputError, match="cannot hold out"):
            holdout(images(), wrong, seed=0)


# --- real files


def real(name):
    if "ROBENCH_DATA" not in os.environ:
        pytest.skip("ROBENCH_DATA is not set")
    path = Path(os.environ["ROBENCH_DATA"])
    if not (path / name).exists():
        pytest.skip(f"no {name} in ROBENCH_DATA")
    return path


@pytest.mark.realdata
def test_mnist_has_its_ten_thousand_test_images():
    loaded = load_images("mnist", data_dir=real("MNIST"))
    assert loaded.x.shape == (10000, 1, 28, 28)
    assert loaded.y.bincount().tolist() == [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009]
    assert loaded.y[:10].tolist() == [7, 2, 1, 0, 4, 1, 4, 9, 5, 9]


@pytest.mark.realdata
def test_the_lossless_cifar10_images_carry_their_official_indices():
    path = real("cifar10-lossless.npz") / "cifar10-lossless.npz"
    loaded = load_images(f"npz:{path}")
    assert loaded.name == "npz:cifar10-lossless"
    assert loaded.x.shape == (1000, 3, 32, 32)
    assert torch.equal(loaded.ids, torch.arange(1000))
    assert loaded.y[:10].tolist() == [3, 8, 8, 0, 6, 6, 1, 6, 3, 1]
    with np.load(path) as stored:
        assert torch.equal(load_images(f"npz:{path}", "train", n=100).ids, torch.from_numpy(stored["train_index"][:100]).long())


def test_every_ending_is_one_that_pillow_reads():
    assert set(ENDINGS) <= set(Image.registered_extensions())
