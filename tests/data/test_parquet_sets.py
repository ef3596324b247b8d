"""Parquet files as Hugging Face's hub keeps them: splits, configurations, columns, names of classes, the cache; and what is refused."""

from pathlib import Path

import numpy as np
import pytest
from containers import NAMES, class_label, png_bytes, small_pixels, write_parquet
from needed import needed

from robench.core.decoding import decoded_item
from robench.core.errors import InputError
from robench.data import parquet_sets
from robench.data.parquet_sets import parquet_catalogue

pyarrow = needed("pyarrow")
PIXELS = small_pixels(12)
ROWS = [png_bytes(image) for image in PIXELS]


def read(place, split="test", download=False):
    return parquet_catalogue(str(place), split, Path("data"), download)


def pixels_of(catalogue):
    return [decoded_item(item).transpose(1, 2, 0) for item in catalogue.items]


def refused(place, words, **how):
    with pytest.raises(InputError, match=words) as caught:
        read(place, **how)
    assert str(caught.value).count("\n") == 0


def test_what_datasets_writes_is_read_with_its_names_and_order(tmp_path):
    datasets = needed("datasets")
    from PIL import Image

    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=list(NAMES))})
    images = [Image.fromarray(image) for image in PIXELS]
    whole = datasets.Dataset.from_dict({"image": images, "label": [k % 3 for k in range(12)]}, features=features)
    (tmp_path / "set" / "data").mkdir(parents=True)
    for k in range(2):
        whole.shard(2, k, contiguous=True).to_parquet(tmp_path / "set" / "data" / f"validation-{k:05d}-of-00002.parquet")
    found = read(tmp_path / "set")
    files = sorted(map(str, (tmp_path / "set" / "data").iterdir()))
    theirs = datasets.load_dataset("parquet", data_files=files, cache_dir=str(tmp_path / "cache"), split="train")
    assert (found.name, found.split, found.classes) == ("hf-data:set", "test", NAMES)
    assert found.y.tolist() == theirs["label"] == [k % 3 for k in range(12)]
    assert found.ids.tolist() == list(range(12))
    for mine, row in zip(pixels_of(found), theirs, strict=True):
        assert np.array_equal(mine, np.asarray(row["image"]))
    assert "val stands in for it" in " ".join(found.notes)


@pytest.mark.parametrize(
    ("file", "split", "stored"),
    [
        ("data/test-00000-of-00001.parquet", "test", "test"),
        ("data/validation-00000-of-00001.parquet", "test", "test"),
        ("data/validation-00000-of-00001.parquet", "val", "val"),
        ("train-00000-of-00001.parquet", "train", "train"),
        ("test/anything.parquet", "test", "test"),
        ("default/test/0000.parquet", "test", "test"),
        ("imagenet_dev.parquet", "test", "test"),
        ("images.parquet", "train", "all"),
    ],
)
def test_splits_are_those_of_file_names(tmp_path, file, split, stored):
    write_parquet(tmp_path / file, ROWS)
    assert read(tmp_path, split).split == stored


def test_of_several_splits_the_one_that_is_asked_for_is_read(tmp_path):
    for k, split in enumerate(("train", "validation", "test")):
        write_parquet(tmp_path / "data" / f"{split}-00000-of-00001.parquet", ROWS[k : k + 3])
    write_parquet(tmp_path / "data" / "test_matched-00000-of-00001.parquet", ROWS[:5])
    for k, split in enumerate(("train", "val", "test")):
        assert np.array_equal(pixels_of(read(tmp_path, split))[0], PIXELS[k])
    (tmp_path / "data" / "train-00000-of-00001.parquet").unlink()
    refused(tmp_path, "has no split 'train': its files say test, test_matched, val", split="train")


def test_one_file_alone_is_read_and_a_missing_part_of_several_is_named(tmp_path):
    for k in (0, 2):
        write_parquet(tmp_path / f"test-{k:05d}-of-00003.parquet", ROWS[k : k + 2])
    refused(tmp_path, r"has 2 of the 3 files test-\.\.\.-of-00003: copy the others as well, or name one file")
    assert np.array_equal(pixels_of(read(tmp_path / "test-00002-of-00003.parquet"))[0], PIXELS[2])


def test_configurations_are_folders_and_one_of_several_is_named(tmp_path):
    for k, config in enumerate(("plain_text", "grey/32")):
        write_parquet(tmp_path / config / "test-00000-of-00001.parquet", ROWS[k : k + 1])
    refused(tmp_path, "has the configurations grey/32, plain_text: name one, as hf-data:.*,config=grey/32")
    refused(f"{tmp_path},config=colour", "there is no configuration 'colour': it has grey/32, plain_text")
    found = read(f"{tmp_path},config=plain_text")
    assert np.array_equal(pixels_of(found)[0], PIXELS[0])
    assert found.name.endswith(",config=plain_text")


def test_row_groups_and_parts_are_counted_in_one_order(tmp_path):
    for k in range(3):
        write_parquet(tmp_path / f"test-{k:05d}-of-00003.parquet", ROWS[4 * k : 4 * k + 4], [4 * k + i for i in range(4)], row_group_size=3)
    found = read(tmp_path)
    assert found.y.tolist() == list(range(12))
    assert [item[3:] for item in found.items] == [(0, 0), (0, 1), (0, 2), (1, 0)] * 3
    assert all(np.array_equal(one, other) for one, other in zip(pixels_of(found), PIXELS, strict=True))
    assert found.items[3:5] == [found.items[3], found.items[4]]
    assert list(found.files)[5] == "test-00001-of-00003.parquet/1"
    with pytest.raises(IndexError):
        found.items[12]


def test_images_are_called_by_the_path_beside_their_bytes(tmp_path):
    paths = [f"n01440764/ILSVRC2012_val_{k:08d}.JPEG" for k in range(11)] + ["x" * 5000]
    write_parquet(tmp_path / "a.parquet", ROWS, paths=paths)
    assert list(read(tmp_path).files) == [*paths[:11], "a.parquet/11"]


def test_the_image_column_is_not_read_at_the_beginning(tmp_path):
    file = tmp_path / "a.parquet"
    rows = [np.random.default_rng(k).bytes(2000) for k in range(12)]
    write_parquet(file, rows, compression="none", use_dictionary=False, write_statistics=False, write_page_checksum=True)
    file.write_bytes(file.read_bytes().replace(rows[5], b"\0" * 2000))  # a page of them no longer has its checksum
    found = read(file)
    assert found.y.tolist() == [k % 3 for k in range(12)]
    with pytest.raises(InputError, match="cannot be read as a parquet file"):
        decoded_item(found.items[5])


# Columns and classes


def test_labels_of_text_count_in_the_order_of_text_over_all_splits(tmp_path):
    write_parquet(tmp_path / "train.parquet", ROWS[:3], ["eel", "dog", "cat"])
    write_parquet(tmp_path / "test.parquet", ROWS[3:6], ["eel", "dog", "eel"])
    found = read(tmp_path)
    assert (found.y.tolist(), found.classes) == ([2, 1, 2], NAMES)
    assert "labels in label are text, and count its 3 texts in their order" in " ".join(found.notes)


def test_labels_of_text_stand_for_the_names_that_the_set_gives(tmp_path):
    write_parquet(tmp_path / "test.parquet", ROWS[:3], ["eel", "cat", "eel"], features=class_label(["eel", "cat"]))
    assert read(tmp_path).y.tolist() == [0, 1, 0]
    write_parquet(tmp_path / "test.parquet", ROWS[:3], ["eel", "fox", "eel"], features=class_label())
    refused(tmp_path, "the label 'fox' in label is none of its classes")


def test_without_names_the_classes_are_numbers_up_to_the_largest_of_any_split(tmp_path):
    write_parquet(tmp_path / "train.parquet", ROWS[:3], [0, 1, 6])
    write_parquet(tmp_path / "test.parquet", ROWS[:2], [1, 1])
    assert read(tmp_path).classes == tuple("0123456")


CARD = """---
license: mit
dataset_info:
- config_name: other
  features: []
- config_name: default
  features:
  - name: image
    dtype: image
  - name: label
    dtype:
      class_label:
        names:
NAMES
---
# A set
"""


@pytest.mark.parametrize(
    "names", ["        - cat\n        - dog\n        - eel", "          '0': cat\n          '1': dog\n          '2': eel"]
)
def test_names_of_classes_come_from_the_data_card_where_the_files_say_none(tmp_path, names):
    needed("huggingface_hub")
    write_parquet(tmp_path / "test.parquet", ROWS)
    (tmp_path / "README.md").write_text(CARD.replace("NAMES", names))
    assert read(tmp_path).classes == NAMES
    (tmp_path / "README.md").write_text("---\ndataset_info: [}\n---\n")
    refused(tmp_path, r"the head of its README\.md is no YAML")
    (tmp_path / "README.md").write_text("---\ndataset_info: 7\n---\n")
    assert read(tmp_path).classes == ("0", "1", "2")


def test_options_name_the_columns(tmp_path):
    columns = {"fine": list(range(12)), "coarse": [k // 6 for k in range(12)], "mask": pyarrow.array(ROWS[::-1], pyarrow.binary())}
    write_parquet(tmp_path / "a.parquet", ROWS, columns)
    refused(tmp_path, r"has no column of labels: add ,label=COLUMN to its name; it has image \(struct")
    assert read(f"{tmp_path},label=coarse").y.tolist() == [0] * 6 + [1] * 6
    assert np.array_equal(pixels_of(read(f"{tmp_path},image=mask,label=fine"))[0], PIXELS[-1])
    refused(f"{tmp_path},label=nope", "has no column 'nope' for labels")
    refused(f"{tmp_path},label=fine,image=coarse", "has no column 'coarse' with the bytes of images")
    refused(f"{tmp_path},lable=fine", "takes no option 'lable': did you mean 'label'")
    refused(f"{tmp_path},label=fine,label=coarse", "gives label twice")


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"label": [0.5] * 12}, "labels in label are double: they must be whole numbers or text"),
        ({"label": [True] * 12}, "labels in label are bool"),
        ({"label": [None] + [1] * 11}, "label holds no label .null. in 1 of 12 rows"),
        ({"label": [-1] * 12}, "go down to -1, which stands for unknown: take another split"),
        ({"label": [10**7] * 12}, "go up to 10000000, and 100,000 classes are the most"),
        ({"label": np.full(12, 2**64 - 1, np.uint64)}, "cannot be read as a parquet file"),
        ({"target": [1] * 12, "y": [1] * 12}, "2 columns that could be the label, target, y"),
        ({"other": [1] * 12}, "no column of labels"),
        ({"label": [1] * 12, "second": pyarrow.array([{"bytes": b"a"}] * 12)}, "2 columns of images, image, second: add ,image=COLUMN"),
    ],
)
def test_columns_that_leave_two_readings_or_none_are_one_sentence(tmp_path, columns, words):
    write_parquet(tmp_path / "a.parquet", ROWS, columns)
    refused(tmp_path, words)


def test_two_labels_with_names_are_told_apart_by_the_user(tmp_path):
    names = {"names": list(NAMES), "_type": "ClassLabel"}
    write_parquet(
        tmp_path / "a.parquet",
        ROWS,
        {"fine_label": [0] * 12, "coarse_label": [1] * 12},
        features={"fine_label": names, "coarse_label": names},
    )
    refused(tmp_path, "2 columns that could be the label, fine_label, coarse_label")
    assert read(f"{tmp_path},label=coarse_label").classes == NAMES


def test_files_without_images_and_with_paths_alone(tmp_path):
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.table({"text": ["a"], "label": [0]}), tmp_path / "a.parquet")
    refused(tmp_path, r"has no column of images: it has text \(string\), label \(int64\)")
    write_parquet(tmp_path / "a.parquet", [None] * 12, paths=[f"/etc/{k}.png" for k in range(12)])
    with pytest.raises(InputError, match="row 0 of row group 0 has no image: its image holds no bytes, and no path is followed"):
        decoded_item(read(tmp_path).items[0])


def test_files_that_differ_are_named(tmp_path):
    write_parquet(tmp_path / "test-0.parquet", ROWS)
    write_parquet(tmp_path / "test-1.parquet", ROWS, ["cat"] * 12)
    refused(tmp_path, "in test-1.parquet the columns have other types than in the first file")


def test_damaged_files_and_folders_without_parquet(tmp_path):
    (tmp_path / "a.parquet").write_bytes(b"PAR1" + b"\0" * 100)
    refused(tmp_path, r"a\.parquet cannot be read as a parquet file")
    (tmp_path / "a.parquet").unlink()
    (tmp_path / "load.py").write_text("raise SystemExit('run')")
    refused(tmp_path, r"holds no parquet file \(it has files of \.py\).*no script is run|holds no parquet file \(it has files of \.py\)")
    refused(f"{tmp_path},revision=main", "a revision is one of the hub")


# The hub's cache


@pytest.fixture
def hub(tmp_path, monkeypatch):
    constants = needed("huggingface_hub.constants")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def cached(hub, repo, files, revision="main", commit="a" * 40):
    """A data set in the layout of the hub's cache: blobs, snapshots of links to them, refs."""
    folder = hub / f"datasets--{repo.replace('/', '--')}"
    (folder / "refs" / revision).parent.mkdir(parents=True, exist_ok=True)
    (folder / "refs" / revision).write_text(commit)
    (folder / "blobs").mkdir(exist_ok=True)
    for number, (name, rows) in enumerate(files.items()):
        blob = folder / "blobs" / f"{commit[0]}{number:063d}"
        write_parquet(blob, rows, features=class_label())
        link = folder / "snapshots" / commit / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(blob)


def test_a_data_set_of_the_hub_is_read_from_its_cache(hub):
    cached(hub, "org/pets", {"data/test-00000-of-00001.parquet": ROWS[:4], "data/train-00000-of-00001.parquet": ROWS[4:]})
    cached(hub, "org/pets", {"default/test/0000.parquet": ROWS[4:6]}, "refs/convert/parquet", "b" * 40)
    found = read("org/pets")
    assert (found.name, len(found), found.classes) == ("hf-data:org/pets", 4, NAMES)
    assert np.array_equal(pixels_of(found)[3], PIXELS[3])
    assert len(read("org/pets", download=True)) == 4  # nothing is missing, so nothing is asked of the hub
    assert len(read("org/pets,revision=refs/convert/parquet")) == 2
    assert len(read(f"org/pets,revision={'b' * 40}")) == 2
    refused("org/pets,revision=../../..", "is no revision")


def test_what_is_not_in_the_cache_names_the_folder_and_download(hub):
    refused(
        "org/pets",
        r"hf-data:org/pets not found here or in data, and .*hub/datasets--org--pets has no snapshot of the revision main: add --download",
    )
    refused("org/pets", r"could not be fetched into .*datasets--org--pets \(OfflineModeIsEnabled", download=True)
    refused("a/b/c", "is no ORG/NAME of the hub")
    refused("../up", "is no ORG/NAME of the hub")
    cached(hub, "org/pets", {"data/test-00000-of-00002.parquet": ROWS})
    refused("org/pets", r"has 1 of the 2 files data/test-\.\.\.-of-00002: add --download")
    refused("org/pets", "could not be fetched", download=True)


class Hub:
    """What the client of the hub answers, and what it was asked for."""

    def __init__(self, hub, files):
        self.hub, self.files, self.asked = hub, files, []

    def list_repo_files(self, repo, *, repo_type, revision):
        assert (repo_type, revision) == ("dataset", "main")
        return [*self.files, "load.py", "README.md", ".gitattributes"]

    def snapshot_download(self, repo, *, allow_patterns, repo_type, revision):
        self.asked = allow_patterns
        cached(self.hub, repo, {name: rows for name, rows in self.files.items() if name in allow_patterns})
        return str(self.hub / "datasets--org--pets" / "snapshots" / ("a" * 40))


def test_with_download_the_files_of_the_split_alone_are_fetched(hub, monkeypatch):
    package = needed("huggingface_hub")
    files = {f"data/{split}-00000-of-00001.parquet": ROWS[k : k + 2] for k, split in enumerate(("train", "validation"))}
    client = Hub(hub, files)
    monkeypatch.setattr(package, "HfApi", lambda: client)
    monkeypatch.setattr(package, "snapshot_download", client.snapshot_download)
    assert len(read("org/pets", download=True)) == 2
    assert client.asked == ["data/validation-00000-of-00001.parquet", "README.md"]
    client.files = {"data.csv": []}
    refused("org/pets", "has no parquet files, and no script is run", split="train", download=True)


def test_without_the_package_a_sentence_says_what_to_install(tmp_path, monkeypatch):
    import sys

    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    refused("org/pets", r"huggingface_hub, which is not installed: pip install huggingface_hub")
    write_parquet(tmp_path / "a.parquet", ROWS)
    assert len(read(tmp_path)) == 12
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    parquet_sets.open_parquet.__globals__["opened_parquet"].cache_clear()
    refused(tmp_path, r"pyarrow, which is not installed: pip install pyarrow")
