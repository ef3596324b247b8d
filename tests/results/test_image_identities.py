"""images.csv: which file each image was and what its pixels were; runs are compared by it."""

import csv
import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import robench
from robench.core.errors import InputError
from robench.core.rows import blank_row
from robench.data import load_images
from robench.report.comparison import compare
from robench.results.image_identities import image_identities, preprocessing_text
from robench.runs.types import Subject


class Brightness(torch.nn.Module):
    """Two logits that the mean of the red channel decides, for images of any size."""

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(9.0))

    def forward(self, x):
        red = x[:, 0].mean((1, 2))
        return self.scale * torch.stack([0.5 - red, red - 0.5], dim=1)


@pytest.fixture
def tree(tmp_path):
    rng = np.random.default_rng(5)
    for label, kind in enumerate(("dark", "light")):
        for rank in range(20):
            height, width = rng.integers(20, 40, 2)
            pixels = rng.integers(100 * label, 156 + 100 * label, (height, width, 3), dtype=np.uint8)
            (tmp_path / "tree" / kind).mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(tmp_path / "tree" / kind / f"{rank:02d}.png")
    return tmp_path / "tree"


def run(images, folder, model=None):
    robench.evaluate(model or Brightness(), images, suite=["fgsm"], eps=8 / 255).save(folder)
    return folder


def lines(folder):
    return list(csv.DictReader((folder / "images.csv").read_text().splitlines()))


def test_a_run_in_memory_and_one_from_the_disk_write_the_same_images_and_are_compared(tree, tmp_path):
    memory, disk = (load_images(f"folder:{tree}", image_size=16, pixels=place) for place in ("memory", "disk"))
    a, b = run(memory, tmp_path / "a"), run(disk, tmp_path / "b")
    assert (a / "images.csv").read_bytes() == (b / "images.csv").read_bytes()
    assert [line["file"] for line in lines(a)[:3]] == ["dark/00.png", "light/00.png", "dark/01.png"]
    manifests = [json.loads((folder / "manifest.json").read_text())["data"] for folder in (a, b)]
    assert manifests[0]["sha256"] != manifests[1]["sha256"] == manifests[1]["files"] == manifests[0]["files"]
    assert "preprocessing" in manifests[0]
    assert not any("resized" in note for note in compare(a, b).notes)


def test_images_that_are_resized_otherwise_are_matched_by_id_with_a_note(tree, tmp_path):
    small, large = (load_images(f"folder:{tree}", image_size=side) for side in (16, 19))
    found = compare(run(small, tmp_path / "a"), run(large, tmp_path / "b"))
    assert [note for note in found.notes if "resize 16 bilinear, crop 16x16 in BASE, resize 19 bilinear, crop 19x19 in NEW" in note]


def test_another_file_or_other_pixels_under_the_same_id_are_refused_by_name(tree, tmp_path):
    base = run(load_images(f"folder:{tree}", image_size=16), tmp_path / "a")
    Image.fromarray(np.full((20, 20, 3), 7, dtype=np.uint8)).save(tree / "dark" / "03.png")
    changed = run(load_images(f"folder:{tree}", image_size=16), tmp_path / "b")
    with pytest.raises(InputError, match=r"the digest of the pixels of image 3 \(dark/03.png\) is"):
        compare(base, changed)
    (tree / "dark" / "03.png").rename(tree / "dark" / "031.png")
    with pytest.raises(InputError, match=r"the file of image 3 is dark/03.png in BASE and dark/031.png in NEW"):
        compare(base, run(load_images(f"folder:{tree}", image_size=16), tmp_path / "c"))


def test_folders_of_before_images_csv_compare_by_the_hash_of_their_images(tree, tmp_path):
    images = load_images(f"folder:{tree}", image_size=16)
    a, b = run(images, tmp_path / "a"), run(images, tmp_path / "b")
    (a / "images.csv").unlink()
    manifest = json.loads((a / "manifest.json").read_text())
    manifest["files"] = [name for name in manifest.get("files", []) if name != "images.csv"]
    del manifest["data"]["files"]
    (a / "manifest.json").write_text(json.dumps(manifest))
    assert compare(a, b)
    with pytest.raises(InputError, match="the SHA-256 of the images is"):
        compare(a, run(load_images(f"folder:{tree}", image_size=16, resize=20), tmp_path / "c"))


def test_models_of_one_run_with_pixels_of_their_own_have_lines_of_their_own(tree, tmp_path):
    first, other = (load_images(f"folder:{tree}", image_size=side) for side in (16, 19))
    subjects = [Subject(Brightness(), replace(blank_row(), checkpoint=name)) for name in "ab"]
    subjects[1] = replace(subjects[1], images=other)
    robench.evaluate(subjects, first, suite=["fgsm"], eps=8 / 255).save(tmp_path / "both")
    alone = [run(images, tmp_path / name) for name, images in (("alone-a", first), ("alone-b", other))]
    for name, folder in zip("ab", alone, strict=True):
        assert image_identities(tmp_path / "both", name) == image_identities(folder, name) != {}
    manifest = json.loads((tmp_path / "both" / "manifest.json").read_text())
    assert [preprocessing_text(manifest, name) for name in "ab"] == ["resize 16 bilinear, crop 16x16", "resize 19 bilinear, crop 19x19"]
    assert len(lines(tmp_path / "both")) == 80


@pytest.mark.parametrize("text", ["sample,file\n1,2\n", "checkpoint,sample,file,pixels\n,x,a,b\n", "checkpoint,sample,file,pixels\n,1\n"])
def test_a_damaged_table_of_images_is_refused(tmp_path, text):
    (tmp_path / "images.csv").write_text(text)
    with pytest.raises(InputError, match=r"cannot read .*images.csv"):
        image_identities(tmp_path, "")


@pytest.mark.parametrize("place", ["memory", "disk"])
def test_a_damaged_image_is_counted_in_the_manifest_and_what_is_left_is_compared(tree, tmp_path, place):
    base = run(load_images(f"folder:{tree}", image_size=16), tmp_path / "a")
    (tree / "light" / "05.png").write_bytes(b"no image")
    new = run(load_images(f"folder:{tree}", image_size=16, pixels=place, skip_damaged=True), tmp_path / "b")
    about = json.loads((new / "manifest.json").read_text())["data"]
    assert (about["n"], about["chosen"], about["damaged_count"], about["damaged"]) == (39, 40, 1, ["light/05.png"])
    found = compare(base, new)
    assert all(line.n == 39 for line in found.lines if line.probe == "clean" and line.metric == "accuracy")
