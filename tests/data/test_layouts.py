"""How trees of image folders are read, and the geometry of resizing: against torchvision, to the pixel."""

import struct
import zlib

import numpy as np
import pytest
import torch
from commandline import robench
from PIL import Image
from torchvision import transforms

from robench.core.errors import InputError
from robench.core.preprocessing import Preprocessing, preprocessing_of_options
from robench.data import load_images
from robench.data.images import resized_crops


def put(top, *paths):
    """Small images at these paths; a path that ends in / is an empty folder."""
    for path in paths:
        (top / path).parent.mkdir(parents=True, exist_ok=True)
        if path.endswith("/"):
            (top / path).mkdir(exist_ok=True)
        else:
            Image.new("RGB", (4, 4), (9, 99, 200)).save(top / path)
    return f"folder:{top}"


def read(name, split="test", **how):
    """Classes, number of images, split and notes."""
    images = load_images(name, split, **how)
    return images.classes, len(images), images.split, " | ".join(images.notes)


@pytest.mark.parametrize(
    ("train", "test"), [("train", "test"), ("Train", "Test"), ("training", "testing"), ("TRAIN", "valid"), ("train", "Validation")]
)
def test_splits_are_known_by_their_usual_names_in_any_case(tmp_path, train, test):
    name = put(tmp_path, f"{train}/a/0.png", f"{train}/b/0.png", f"{train}/b/1.png", f"{test}/b/0.png")
    classes, n, split, notes = read(name)
    assert (classes, n, split) == (("a", "b"), 1, "test")
    assert ("stands in for it" in notes) == test.lower().startswith("val")
    assert load_images(name, "test").y.tolist() == [1]
    assert read(name, "train")[:3] == (("a", "b"), 3, "train")


def test_what_was_understood_is_told_in_one_line(tmp_path):
    name = put(tmp_path / "toy", "train/a/0.png", "train/b/0.png", "train/b/1.png", "test/a/0.png", "test/b/0.png")
    assert load_images(name, "train").notes == (
        "folder:toy was read as PATH/SPLIT/CLASS, splits test, train; split 'train': 2 classes (a, b), 3 images, 1 to 2 a class",
    )
    flat = put(tmp_path / "plain", "a/0.png", "b/0.png", "c/0.png")
    assert load_images(flat).notes == (
        "folder:plain was read as PATH/CLASS, no splits; all images: 3 classes (a, b, c), 3 images, 1 a class",
    )


def test_hidden_folders_empty_folders_and_leftovers_of_archives_are_no_classes(tmp_path):
    name = put(
        tmp_path, "a/0.png", "a/.ipynb_checkpoints/0-checkpoint.png", "b/0.png", "b/deep/.cache/1.png", "b/deep/2.png", "__MACOSX/a/0.png",
        "empty/", ".git/x.png",
    )  # fmt: skip
    classes, n, _, notes = read(name)
    assert (classes, n) == (("a", "b"), 3)
    assert "folders without images are no classes: empty" in notes


def test_one_wrapping_folder_is_entered_and_said(tmp_path):
    name = put(tmp_path, "pets-v2/train/a/0.png", "pets-v2/train/b/0.png", "pets-v2/test/a/0.png", "__MACOSX/pets-v2/._x.png")
    classes, n, split, notes = read(name)
    assert (classes, n, split) == (("a", "b"), 1, "test")
    assert "all is in its folder pets-v2, which was entered" in notes
    assert read(name, layout="classes")[:3] == (("pets-v2",), 3, "all")
    one = put(tmp_path / "one", "a/0.png", "a/sub/1.png")
    assert read(one)[:2] == (("a",), 2)


@pytest.mark.parametrize(
    ("paths", "sentence", "layout", "classes"),
    [
        (["train/a/0.png", "car/0.png"], "train is a split, or a class beside car: pass --layout", "classes", ("car", "train")),
        (["train/0.png", "test/0.png"], "test and train hold images and no class folders", "classes", ("test", "train")),
        (["a/train/0.png", "a/test/0.png", "b/train/0.png"], "a and b hold test and train each", "classes", ("a", "b")),
        (
            ["x/a/0.png", "x/b/0.png", "y/a/0.png", "y/b/0.png"],
            "x and y all hold a, b: if they are splits",
            "classes",
            ("x", "y"),
        ),
        (["test/a/0.png", "Testing/a/0.png", "train/a/0.png"], "two folders for the split 'test', Testing and test", None, None),
        (["0.png", "1.png"], r"holds 2 image files and no class folders; PATH/CLASS/\* or PATH/train/CLASS/\*", None, None),
        (["docs/", "more/x/"], "holds no images: it has docs, more", None, None),
        (["train/a/0.png", "test/0.png"], r"no folder for the split 'test': it has test \(without class folders\), train", None, None),
    ],
)
def test_two_readings_are_refused_and_the_option_decides(tmp_path, paths, sentence, layout, classes):
    name = put(tmp_path / "toy", *paths)
    with pytest.raises(InputError, match=sentence):
        load_images(name)
    if layout:
        assert read(name, layout=layout)[0] == classes


def test_a_layout_that_is_not_there_or_unknown_is_refused(tmp_path):
    name = put(tmp_path / "toy", "a/0.png", "b/0.png")
    with pytest.raises(InputError, match="no train, test or val folder with class folders: it has a, b"):
        load_images(name, layout="splits")
    with pytest.raises(InputError, match="unknown layout 'flat'"):
        load_images(name, layout="flat")
    with pytest.raises(InputError, match="leave --layout out"):
        load_images("shapes", n=2, layout="splits")
    (tmp_path / "toy.zip").write_bytes(b"")
    with pytest.raises(InputError, match="is a file and no folder: unpack it"):
        load_images(f"folder:{tmp_path / 'toy.zip'}")
    put(tmp_path / "more", "train/a/0.png", "test/a/0.png", "extra/0.png")
    assert "left out beside its splits: extra" in read(f"folder:{tmp_path / 'more'}")[3]
    put(tmp_path / "stray", "a/0.png", "b/0.png", "sheet.png")
    assert "1 image file outside the class folders left out" in read(f"folder:{tmp_path / 'stray'}")[3]


def test_every_command_that_reads_a_folder_says_how(tmp_path):
    name = put(tmp_path / "toy", *(f"{split}/{kind}/{k}.png" for split in ("train", "test") for kind in "ab" for k in range(12)))
    words = ["--arch", "mlp,width=2", "--epochs", "1", "--batch-size", "8", "--held-out", "4", "--suite", "fgsm", "--objective", "standard"]
    line = "folder:toy was read as PATH/SPLIT/CLASS, splits test, train; split"
    assert line in robench("train", "--data", name, "--image-size", 8, *words, "--out", tmp_path / "m.pt").stderr
    for call in (["attack", "--attack", "fgsm"], ["saliency"], ["corrupt", "--corruption", "fog", "--severity", "1"]):
        said = robench(call[0], tmp_path / "m.pt", *call[1:], "--data", name, "--image-size", 8, "--out", tmp_path / call[0])
        assert said.stderr.count(line) == 1
        assert line in (tmp_path / call[0] / "manifest.json").read_text()
    written = robench("corrupt", "--export", tmp_path / "set", "--corruption", "fog", "--data", name, "--image-size", 8)
    assert written.stderr.count(line) == 1


# --- 16 bits


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def deep_png(path, channels, colour):
    rows = b"".join(b"\0" + np.full(4 * channels, 40000, ">u2").tobytes() for _ in range(4))
    head = struct.pack(">IIBBBBB", 4, 4, 16, colour, 0, 0, 0)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b""))


@pytest.mark.parametrize("kind", ["rgb", "rgba", "grey-alpha", "ppm"])
def test_sixteen_bits_a_channel_are_not_cut_to_eight_unasked(tmp_path, kind):
    (tmp_path / "a").mkdir()
    if kind == "ppm":
        (tmp_path / "a" / "0.ppm").write_bytes(b"P6 4 4 65535\n" + np.full(48, 40000, ">u2").tobytes())
    else:
        deep_png(tmp_path / "a" / "0.png", *{"rgb": (3, 2), "rgba": (4, 6), "grey-alpha": (2, 4)}[kind])
    with pytest.raises(InputError, match="more than 8 bits a channel"):
        load_images(f"folder:{tmp_path}")


# --- geometry

SIDES = [(31, 47), (47, 31), (32, 32), (33, 100), (100, 33), (64, 65), (7, 9), (224, 300), (375, 500), (500, 375), (17, 90), (63, 64)]


@pytest.mark.parametrize(("resize", "crop"), [(32, 32), (36, 32), (37, 32), (31, 30), (64, 64), (9, 7), (73, 64), (5, 5)])
def test_image_files_become_what_torchvisions_transforms_make_of_them(tmp_path, resize, crop):
    rng = np.random.default_rng(0)
    reference = transforms.Compose([transforms.Resize(resize), transforms.CenterCrop(crop)])
    for place, (height, width) in enumerate(SIDES):
        (tmp_path / "a").mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (height, width, 3), dtype=np.uint8)).save(tmp_path / "a" / f"{place:02d}.png")
    loaded = load_images(f"folder:{tmp_path}", image_size=crop, resize=resize)
    for place in range(len(SIDES)):
        with Image.open(tmp_path / "a" / f"{place:02d}.png") as image:
            assert np.array_equal(loaded.x[place].permute(1, 2, 0).numpy(), np.asarray(reference(image)))


@pytest.mark.parametrize(("resize", "crop"), [(32, 32), (36, 32), (37, 32), (31, 30), (9, 7)])
def test_arrays_become_what_torchvisions_transforms_make_of_tensors(resize, crop):
    reference = transforms.Compose([transforms.Resize(resize, antialias=True), transforms.CenterCrop(crop)])
    for height, width in SIDES:
        x = torch.randint(0, 256, (2, 3, height, width), generator=torch.Generator().manual_seed(height), dtype=torch.uint8)
        assert torch.equal(resized_crops(x, Preprocessing(resize, (crop, crop))), reference(x))
        floats = x.float() / 255
        assert torch.allclose(resized_crops(floats, Preprocessing(resize, (crop, crop))), reference(floats), atol=1e-6)


def test_sizes_that_do_not_go_together_are_refused():
    assert preprocessing_of_options(None, None, None) is None
    assert preprocessing_of_options(224, None, None) == Preprocessing(224, (224, 224))
    for image_size, resize, sentence in [
        (None, 256, "give both"),
        (224, 200, "at least --image-size"),
        (0, None, "at least 1 pixel"),
        (4, 0, "1 pixel"),
    ]:
        with pytest.raises(InputError, match=sentence):
            preprocessing_of_options(image_size, resize, None)
