"""What results say of the images: how they were resized, which were left out, the libraries that were used, ImageNet's classes by name."""

import json
import re

import numpy as np
import pytest
from commandline import read, refused, robench
from PIL import Image

MODEL = """
import torch
from torch import nn


def net():
    torch.manual_seed(0)
    return nn.Sequential(nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(12, 1000))
"""


@pytest.fixture
def tree(tmp_path):
    """Two classes of ImageNet, of three images each, of which one is damaged, and a network of 1,000 outputs."""
    draws = np.random.default_rng(0)
    for wnid in ("n01440764", "n02012849"):
        (tmp_path / "val" / wnid).mkdir(parents=True)
        for k in range(3):
            Image.fromarray(draws.integers(0, 255, (20 + k, 24, 3), dtype=np.uint8)).save(tmp_path / "val" / wnid / f"{k}.png")
    damaged = tmp_path / "val" / "n02012849" / "1.png"
    damaged.write_bytes(damaged.read_bytes()[:60])
    (tmp_path / "mine.py").write_text(MODEL)
    return tmp_path


def words(tree, *more):
    data = ["--data", f"folder:{tree / 'val'}", "--layout", "classes", "--split", "test"]
    return ["eval", f"{tree}/mine.py:net", "--suite", "fgsm", *data, "--out", tree / "out", *more]


def test_the_page_says_how_images_were_resized_and_which_were_left_out(tree):
    robench(*words(tree, "--image-size", "16", "--resize", "18", "--skip-damaged"))
    text = " ".join(re.sub("<[^>]*>", " ", (tree / "out" / "report.html").read_text()).split())
    assert "shown as resize 18 bilinear, crop 16" in text
    assert "left out 1 that cannot be read: n02012849/1.png" in text


def test_the_classes_of_imagenet_are_shown_by_name_and_kept_by_id(tree):
    result = robench(*words(tree, "--image-size", "16", "--skip-damaged"))
    about = json.loads((tree / "out" / "manifest.json").read_text())["data"]
    assert about["classes"][0] == "n01440764"
    assert about["classes_in_words"][0] == "tench"
    page = (tree / "out" / "report.html").read_text()
    assert "tench" in page
    assert "tench" in result.stdout
    assert {row["setting"] for row in read(tree / "out" / "rows.csv") if "class=" in row["setting"]}


def test_the_manifest_names_the_libraries_that_a_run_used(tree):
    robench(*words(tree, "--image-size", "16", "--skip-damaged"))
    versions = json.loads((tree / "out" / "manifest.json").read_text())["versions"]
    assert re.fullmatch(r"\d+\.\d+(\.\d+)?", versions["pillow"])


def test_sentences_on_sizes_and_damage_name_class_file_and_options(tree):
    said = refused(*words(tree, "--image-size", "16"))
    assert "n02012849/1.png" in said
    assert "--skip-damaged leaves such images out" in said
    said = refused(*words(tree, "--skip-damaged"))
    assert re.search(r"n01440764/0.png is 24x20 and n\d+/\d.png is 24x2\d", said)
    assert "--image-size to bring them to one, with --resize and --interpolation" in said
