"""Files are written whole or not at all, and say what they were given."""

import csv
import json
import math

import pandas as pd
import pytest
import torch

from robench.core.errors import InputError
from robench.core.files import prepare_folder
from robench.core.rows import Row, Sample
from robench.report.figures.attacks import draw_accuracy_bars, draw_change_gallery
from robench.report.manifest import new_manifest
from robench.results.files import save_tables

ROW = Row("net.pt", "small", "shapes", "test", 10, 0, "linf", 8 / 255, "pgd-10", "", "accuracy", 1 / 3, 0.1, 0.6)
SAMPLE = Sample(4, 3, 3, 5, "fgsm", 8 / 255, 0, 1.25, -0.5, 8 / 255, 3, 1)


def test_tables_come_back_to_the_last_digit(tmp_path):
    save_tables(tmp_path, [ROW, Row(*vars(ROW).values())], [SAMPLE], {"flags": []})
    for name, entry in (("rows.csv", ROW), ("samples.csv", SAMPLE)):
        with (tmp_path / name).open(newline="") as file:
            line = next(csv.DictReader(file))
        assert {key: type(value)(line[key]) for key, value in vars(entry).items()} == vars(entry)


def test_a_write_that_fails_leaves_the_old_files_and_nothing_else(tmp_path, monkeypatch):
    save_tables(tmp_path, [ROW], [SAMPLE], {"flags": ["old"]})
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    monkeypatch.setattr("robench.core.files.os.fsync", lambda handle: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(InputError, match="No space left"):
        save_tables(tmp_path, [], [], {"flags": ["new"]})
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_folder_below_a_file_cannot_be_prepared(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write into"):
        prepare_folder(tmp_path / "file" / "out")


def test_the_manifest_is_plain_json_with_versions_and_flags():
    content = json.loads(json.dumps(new_manifest("cpu", 3, 1.5, ["a flag"], data={"name": "shapes"})))
    assert content["versions"]["torch"] == torch.__version__.split("+")[0] or content["versions"]["torch"] == torch.__version__
    assert (content["seed"], content["flags"], content["data"]) == (3, ["a flag"], {"name": "shapes"})


def test_pictures_are_drawn_without_a_screen_and_are_not_blank(tmp_path):
    from matplotlib.image import imread

    x = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    first = draw_change_gallery(tmp_path / "examples.png", x, (x + 0.1).clamp(0, 1), [("a", "b")] * 3, "title")
    second = draw_accuracy_bars(tmp_path / "accuracy.png", [ROW], "title")
    assert all(imread(path)[..., :3].std() > 0.05 for path in (first, second))


def test_missing_numbers_are_written_as_empty_cells(tmp_path):
    standing = Sample(4, 3, 3, 3, "", math.nan, -1, 1.25, math.nan, math.nan, 3, 1)
    save_tables(tmp_path, [], [standing], {})
    assert pd.read_csv(tmp_path / "samples.csv")["distance"].isna().all()
    assert (tmp_path / "samples.csv").read_text().splitlines()[1] == "4,3,3,3,,,-1,1.25,,,3,1,-1,"
