"""Trees of corrupted images through the whole command: the verdicts of arrays, decoded by workers, matched to clean files by name."""

import gzip

import numpy as np
import pytest
import torch
from commandline import read, refused, robench
from PIL import Image

from robench.core.corruption_names import ON_DISK
from robench.core.preprocessing import Preprocessing, UnofferedPreprocessingError
from robench.data.corrupted_sets import read_corrupted_set

MODEL_FILE = """
import torch
from torch import nn
class Banded(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(3, 10)
        with torch.no_grad():
            self.net.weight.copy_(torch.linspace(-9, 9, 30).view(10, 3).sin() * 8)
            self.net.bias.copy_(torch.linspace(-2, 2, 10).cos())
    def forward(self, x):
        return self.net(x.mean((2, 3)) + 3 * x[:, :, 3, 5])
def banded():
    return Banded()
"""
WNIDS = [f"n{1440764 + 7 * label:08d}" for label in range(10)]
N, SIDE = 30, 48


@pytest.fixture
def real(data_dir):
    """Real images enlarged to 48 pixels, (N, 48, 48, 3) uint8, and their labels."""
    if not (data_dir / "cifar10-lossless.npz").exists():
        pytest.skip("no cifar10-lossless.npz in ROBENCH_DATA")
    with np.load(data_dir / "cifar10-lossless.npz") as file:
        x, y = file["x_test"][:N], file["y_test"][:N]
    return np.stack([np.asarray(Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.BICUBIC)) for image in x]), y


def corrupted(x, name, severity):
    """What stands for a corruption here, another one for each name and severity."""
    rng = np.random.default_rng([*name.encode(), severity])
    return np.clip(x.astype(int) + rng.integers(-25 * severity, 25 * severity + 1, (1, 1, 1, 3)), 0, 255).astype(np.uint8)


def file_name(image, label):
    return f"{WNIDS[label]}/ILSVRC2012_val_{image:08d}.png"


def write_tree(top, x, y, names, severities=(1, 2, 3, 4, 5), folder="{}".format):
    for name in names:
        for severity in severities:
            for image, (pixels, label) in enumerate(zip(corrupted(x, name.rpartition("/")[2], severity), y, strict=True)):
                path = top / name / folder(severity) / file_name(image, label)
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(pixels).save(path)
    return top


def write_arrays(top, x, y, names):
    top.mkdir()
    for name in names:
        np.save(top / f"{name}.npy", np.concatenate([corrupted(x, name, severity) for severity in (1, 2, 3, 4, 5)]))
    np.save(top / "labels.npy", y)
    return top


def model(folder):
    (folder / "models.py").write_text(MODEL_FILE)
    return f"{folder / 'models.py'}:banded"


def preds(folder, order):
    """(corruption, image) -> the labels at all severities."""
    lines = read(folder / "samples.csv")
    return {(line["probe"], order[int(line["sample"])]): [line[f"pred_{severity}"] for severity in range(1, 6)] for line in lines}


@pytest.mark.realdata
@pytest.mark.parametrize("kind", ["imagenet-c", "imagenet-c-bar", "imagenet-3dcc"])
def test_a_tree_of_real_images_has_the_verdicts_of_the_same_images_as_arrays(tmp_path, real, kind):
    x, y = real
    names = ["gaussian_noise", "fog", "pixelate"] if kind == "imagenet-c" else list(ON_DISK[kind])[:3]
    groups = dict(zip(names, ("noise", "weather", "digital"), strict=True)) if kind == "imagenet-c" else {}
    write_tree(tmp_path / "tree", x, y, [f"{groups[name]}/{name}" if groups else name for name in names])
    write_arrays(tmp_path / "arrays", x, y, names)
    for folder in ("tree", "arrays"):
        robench("corrupt", model(tmp_path), "--from", tmp_path / folder, "--out", tmp_path / f"of-{folder}")
    by_name = sorted(range(N), key=lambda image: file_name(image, y[image]))
    assert preds(tmp_path / "of-tree", by_name) == preds(tmp_path / "of-arrays", range(N))
    rows = [{(row["probe"], row["metric"], row["setting"]): row["value"] for row in read(tmp_path / f"of-{folder}" / "rows.csv")
             if not row["metric"].endswith("class_accuracy")} for folder in ("tree", "arrays")]  # fmt: skip
    assert rows[0] == rows[1]
    assert len({*map(tuple, preds(tmp_path / "of-tree", by_name).values())}) > 3


@pytest.mark.realdata
def test_workers_decode_the_same_pixels_ahead(tmp_path, real, monkeypatch):
    write_tree(tmp_path / "set", *real, ["fog", "snow"], (1, 3))
    alone = read_corrupted_set(tmp_path / "set", workers=0)
    monkeypatch.setattr("robench.data.corrupted_trees.WORTH_A_PROCESS", 0)
    helped, rows = read_corrupted_set(tmp_path / "set", workers=2), torch.arange(N)
    for corruption, severity in (("fog", 1), ("snow", 3), ("fog", 3)):
        helped.expect(corruption, severity, rows)
        for part in rows.split(7):
            assert torch.equal(helped.pixels(corruption, severity, part), alone.pixels(corruption, severity, part))


@pytest.mark.realdata
def test_the_clean_image_is_found_by_its_file_name_in_a_folder_of_some_of_them(tmp_path, real):
    x, y = real
    write_tree(tmp_path / "set", x, y, ["fog"])
    some = [29, 3, 4, 17, 11, 12, 13, 2, 8, 21, 5]
    for image in some:
        path = tmp_path / "val" / file_name(image, y[image])
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(x[image]).save(path)
    words = ["corrupt", model(tmp_path), "--from", tmp_path / "set", "--classes", "as-is"]
    robench(*words, "--data", f"folder:{tmp_path / 'val'}", "--out", tmp_path / "some")
    robench(*words, "--out", tmp_path / "all")
    by_name = sorted(range(N), key=lambda image: file_name(image, y[image]))
    everything = preds(tmp_path / "all", by_name)
    found = preds(tmp_path / "some", sorted(some, key=lambda image: file_name(image, y[image])))
    assert {image for _, image in found} == {*some}
    assert all(found["fog", image] == everything["fog", image] for image in some)
    clean = {row["probe"]: row for row in read(tmp_path / "some" / "rows.csv") if row["metric"] == "accuracy"}["clean"]
    assert int(clean["n"]) == len(some)
    Image.fromarray(x[0]).save(tmp_path / "val" / WNIDS[y[29]] / "ILSVRC2012_val_00000777.png")
    said = refused(*words, "--data", f"folder:{tmp_path / 'val'}")
    assert "ILSVRC2012_val_00000777.png, and folder:set-c has no image of that name" in said


@pytest.mark.realdata
def test_images_are_chosen_by_a_list_of_file_names_as_robustbench_ships_one(tmp_path, real):
    x, y = real
    write_tree(tmp_path / "set", x, y, ["fog"])
    some = [12, 3, 25]
    with gzip.open(tmp_path / "list.txt.gz", "wt") as file:
        file.write("".join(f"{file_name(image, y[image])}\n" for image in some))
    robench("corrupt", model(tmp_path), "--from", tmp_path / "set", "--indices", tmp_path / "list.txt.gz", "--out", tmp_path / "run")
    by_name = sorted(range(N), key=lambda image: file_name(image, y[image]))
    assert [by_name[int(line["sample"])] for line in read(tmp_path / "run" / "samples.csv")] == some


@pytest.mark.realdata
def test_a_damaged_file_is_named_and_the_run_goes_on_once_it_is_repaired(tmp_path, real):
    x, y = real
    write_tree(tmp_path / "set", x, y, ["fog", "contrast"], (1, 2))
    broken = tmp_path / "set" / "contrast" / "2" / file_name(9, y[9])
    whole = broken.read_bytes()
    broken.write_bytes(whole[: len(whole) // 2])
    words = ["corrupt", model(tmp_path), "--from", tmp_path / "set", "--batch-size", 10, "--out", tmp_path / "run"]
    said = " ".join(robench(*words, code=2).stderr.split())
    assert str(broken) in said
    assert "--skip-damaged" in said
    broken.write_bytes(whole)
    robench(*words, "--resume")
    robench(*words[:-1], tmp_path / "at-once")
    for name in ("rows.csv", "samples.csv"):
        assert (tmp_path / "run" / name).read_text() == (tmp_path / "at-once" / name).read_text()


@pytest.mark.realdata
def test_a_damaged_file_is_left_out_and_counted_where_that_is_asked_for(tmp_path, real):
    x, y = real
    write_tree(tmp_path / "set", x, y, ["fog", "contrast"], (1, 2))
    for image in (9, 20):
        (tmp_path / "set" / "contrast" / "2" / file_name(image, y[image])).write_bytes(b"none")
    words = ["corrupt", model(tmp_path), "--from", tmp_path / "set", "--batch-size", 10, "--skip-damaged", "--out", tmp_path / "run"]
    said = robench(*words)
    assert "2 of the 30 chosen images cannot be read and are left out" in " ".join(said.stderr.split())
    rows = [row for row in read(tmp_path / "run" / "rows.csv") if row["metric"] == "accuracy"]
    assert {row["n"] for row in rows} == {"28"}
    by_name = sorted(range(N), key=lambda image: file_name(image, y[image]))
    assert {by_name[int(line["sample"])] for line in read(tmp_path / "run" / "samples.csv")} == {*range(N)} - {9, 20}


@pytest.mark.realdata
def test_two_runs_on_a_set_on_the_disk_are_compared_and_not_with_those_of_other_pixels(tmp_path, real):
    x, y = real
    for name, pixels in (("set", x), ("elsewhere/set", 255 - x)):
        write_tree(tmp_path / name, pixels, y, ["fog"])
        robench("corrupt", model(tmp_path), "--from", tmp_path / name, "--out", tmp_path / name.replace("/", "-").replace("set", "run"))
    robench("corrupt", model(tmp_path), "--from", tmp_path / "set", "--severity", "1,2,3,4,5", "--out", tmp_path / "again")
    robench("compare", tmp_path / "run", tmp_path / "again", "--out", tmp_path / "compared")
    assert {float(line["difference"]) for line in read(tmp_path / "compared" / "compare.csv")} == {0.0}
    assert "digest of the images under fog" in refused("compare", tmp_path / "run", tmp_path / "elsewhere-run")


@pytest.mark.realdata
def test_a_model_that_says_its_crop_is_shown_it_or_refused_where_the_images_are_smaller(tmp_path, real, monkeypatch):
    x, y = real
    write_tree(tmp_path / "set", x[:12], y[:12], ["fog"], (1,))
    says = {"banded": Preprocessing(64, (40, 40), origin="banded"), "other": Preprocessing(64, (56, 56), "bicubic", "other")}
    monkeypatch.setattr("robench.models.preprocessing.model_preprocessing", lambda source, **_: says.get(source.rpartition(":")[2]))
    one = model(tmp_path)
    (tmp_path / "models.py").write_text(MODEL_FILE + "def other():\n    return Banded()\ndef silent():\n    return Banded()\n")
    robench("corrupt", one, one.replace("banded", "silent"), "--from", tmp_path / "set", "--out", tmp_path / "cut")
    assert {row["setting"] for row in read(tmp_path / "cut" / "rows.csv") if row["metric"] == "accuracy"} == {"severity=1 crop=40x40"}
    other = one.replace("banded", "other")
    said = refused("corrupt", other, "--from", tmp_path / "set")
    assert "other takes images of 56x56 pixels, and those of set are 48x48: --image-size 48 shows it these" in said
    robench("corrupt", other, "--from", tmp_path / "set", "--image-size", 48, "--out", tmp_path / "whole")
    said = robench("corrupt", other, "--from", tmp_path / "set", "--image-size", 56, "--resize", 64, "--out", tmp_path / "larger")
    assert "smaller than the crop, and so resized (resize 64 bicubic crop 56x56)" in " ".join(said.stderr.split())
    assert "measure them apart" in refused("corrupt", one, other, "--from", tmp_path / "set")


@pytest.fixture
def saying(monkeypatch, tmp_path):
    """saying(name=Preprocessing or an error, ...) -> the models of those names, which say so of their images."""

    def made(**says):
        def said(source, **_):
            found = says[source.rpartition(":")[2]]
            if isinstance(found, Exception):
                raise found
            return found

        monkeypatch.setattr("robench.models.preprocessing.model_preprocessing", said)
        (tmp_path / "models.py").write_text(MODEL_FILE + "".join(f"def {name}():\n    return Banded()\n" for name in says))
        return [f"{tmp_path}/models.py:{name}" for name in says]

    return made


def noise(top, n=12, side=SIDE):
    """A tree of noise under fog at severity 1, and the same images as a folder of classes."""
    x = np.random.default_rng(0).integers(0, 256, (n, side, side, 3), dtype=np.uint8)
    write_tree(top / "set", x, np.arange(n) % 3, ["fog"], (1,))
    for image in range(n):
        path = top / "clean" / file_name(image, image % 3)
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(x[image]).resize((64, 56)).save(path)
    return top / "set", f"folder:{top}/clean"


def test_a_model_that_offers_no_preprocessing_is_given_one_by_the_options_on_a_tree_too(saying, tmp_path):
    folder, _ = noise(tmp_path)
    (one,) = saying(padded=UnofferedPreprocessingError("padded wants a border, which is not offered here: give --image-size"))
    words = ["corrupt", one, "--from", folder, "--classes", "as-is"]
    assert "padded wants a border" in refused(*words)
    said = robench(*words, "--image-size", 40, "--out", tmp_path / "out").stderr
    assert "padded wants a border, which is not offered here; the options win" in " ".join(said.split())
    assert {row["setting"] for row in read(tmp_path / "out" / "rows.csv") if row["metric"] == "accuracy"} == {"severity=1 crop=40x40"}


def test_models_that_squash_to_other_sizes_are_refused_on_a_tree_and_one_is_shown_its_size(saying, tmp_path):
    folder, _ = noise(tmp_path)
    one, other = saying(one=Preprocessing((40, 40), None, origin="one"), other=Preprocessing((32, 32), None, origin="other"))
    words = ["--from", folder, "--classes", "as-is"]
    said = refused("corrupt", one, other, *words)
    assert "one (resize 40x40 bilinear) and other (resize 32x32 bilinear): measure them apart" in said
    robench("corrupt", one, *words, "--out", tmp_path / "out")
    assert {row["setting"] for row in read(tmp_path / "out" / "rows.csv") if row["metric"] == "accuracy"} == {"severity=1 crop=40x40"}


def test_a_reference_is_shown_its_own_pixels_of_the_images_and_named_where_it_is_wrong(saying, tmp_path):
    _, clean = noise(tmp_path)
    one, other = saying(one=Preprocessing(48, (48, 48), origin="one"), other=Preprocessing((24, 30), (20, 24), "nearest", "other"))
    (tmp_path / "models.py").write_text(
        MODEL_FILE + "def other():\n    torch.manual_seed(3)\n    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 20 * 24, 10))\n"
        "def one():\n    return Banded()\n"
    )  # the other takes images of its own size alone
    words = ["--data", clean, "--classes", "as-is", "--corruption", "contrast", "--severity", "1,3"]
    robench("corrupt", one, *words, "--reference", other, "--out", tmp_path / "both")
    robench("corrupt", other, *words, "--out", tmp_path / "alone")
    both, alone = (read(tmp_path / name / "rows.csv") for name in ("both", "alone"))
    for probe, metric in (("clean", "accuracy"), ("contrast", "mean_accuracy")):
        (reference,) = [row["value"] for row in both if row["metric"] == "reference_accuracy" and row["probe"] == probe]
        assert float(reference) == pytest.approx(
            next(float(row["value"]) for row in alone if (row["probe"], row["metric"]) == (probe, metric))
        )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("robench.models.preprocessing.model_preprocessing", lambda *_, **__: None)
        said = refused("corrupt", one, *words, "--image-size", 40, "--reference", other)
    assert f"the reference {other}: " in said


def test_a_note_says_where_clean_images_are_resized_and_those_of_the_tree_only_cut(saying, tmp_path):
    folder, clean = noise(tmp_path)
    (one,) = saying(one=Preprocessing(44, (40, 40), origin="one"))
    said = robench("corrupt", one, "--from", folder, "--data", clean, "--classes", "as-is", "--out", tmp_path / "out").stderr
    assert "clean are resized and cut (resize 44 bilinear, crop 40x40), those of folder:set-c only cut to 40x40" in " ".join(said.split())


def test_images_are_cut_to_fewer_pixels_and_resized_only_where_they_are_too_small(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    path = tmp_path / "set" / "fog" / "1" / "n01" / "a.png"
    path.parent.mkdir(parents=True)
    Image.fromarray(pixels).save(path)
    smaller = read_corrupted_set(tmp_path / "set", preprocessing=Preprocessing(36, (32, 32)))
    assert (smaller.shape, smaller.words, smaller.notes) == ((3, 32, 32), "crop=32x32", ())
    assert np.array_equal(smaller.pixels("fog", 1, torch.arange(1))[0].permute(1, 2, 0).numpy(), pixels[4:36, 4:36])
    larger = read_corrupted_set(tmp_path / "set", preprocessing=Preprocessing(64, (56, 56), "bicubic"))
    assert (larger.shape, larger.words) == ((3, 56, 56), "resize=64 interpolation=bicubic crop=56x56")
    assert "smaller than the crop, and so resized (resize 64 bicubic crop 56x56): its authors only cut" in larger.notes[0]
    expected = np.asarray(Image.fromarray(pixels).resize((64, 64), Image.Resampling.BICUBIC))[4:60, 4:60]
    assert np.array_equal(larger.pixels("fog", 1, torch.arange(1))[0].permute(1, 2, 0).numpy(), expected)


def test_of_a_large_tree_only_the_chosen_files_are_looked_for(tmp_path, monkeypatch):
    monkeypatch.setattr("robench.data.corrupted_trees.MOST_COMPARED", 3)
    for severity in (1, 2):
        for image in range(5):
            path = tmp_path / "set" / "fog" / str(severity) / "n01" / f"v_{image}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8), (image, severity, 0)).save(path)
    (tmp_path / "set/fog/2/n01/v_4.png").rename(tmp_path / "set/fog/2/n01/w.png")
    data = read_corrupted_set(tmp_path / "set")
    assert data.load("fog", 2, torch.arange(3)).x[:, 0, 0, 0].tolist() == [0, 1, 2]
    with pytest.raises(Exception, match=r"fog/2/n01/v_4\.png"):
        data.load("fog", 2, torch.arange(5))
