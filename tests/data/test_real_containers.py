"""Real images in parquet files and shards, in memory and on the disk: pixels, labels and verdicts are those of an npz file."""

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from containers import png_bytes, write_parquet, write_shard
from needed import needed

from robench import evaluate
from robench.data import load_images
from robench.models import load_with_origin

pytestmark = [
    pytest.mark.realdata,
    pytest.mark.skipif(
        not (os.environ.get("ROBENCH_DATA") and os.environ.get("ROBENCH_MODELS")), reason="ROBENCH_DATA and ROBENCH_MODELS are not set"
    ),
]
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")  # CIFAR-10's
N = 64


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The first images of CIFAR-10's test split as an npz file, parquet files of two kinds, and shards with numbers and with names."""
    needed("pyarrow")
    place = tmp_path_factory.mktemp("real")
    with np.load(Path(os.environ["ROBENCH_DATA"]) / "cifar10-lossless.npz") as stored:
        x, y = stored["x_test"][:N], stored["y_test"][:N]
    np.savez(place / "set.npz", x_test=x, y_test=y, classes=np.array(CLASSES))
    rows = [png_bytes(image) for image in x]
    features = {"img": {"_type": "Image"}, "label": {"_type": "ClassLabel", "names": list(CLASSES)}}
    for k in range(2):
        part = slice(k * N // 2, (k + 1) * N // 2)
        file = place / "hub" / "plain_text" / f"test-{k:05d}-of-00002.parquet"
        write_parquet(file, rows[part], y[part].tolist(), features=features, row_group_size=10)
    write_parquet(place / "text.parquet", rows, [CLASSES[label] for label in y], compression="zstd")
    write_shard(place / "wds" / "cifar10-test-000000.tar", shard_members(rows, y)[: N + 1])
    write_shard(place / "wds" / "cifar10-test-000001.tar", shard_members(rows, y)[N + 1 :])
    (place / "wds" / "classes.txt").write_text("\n".join(CLASSES))
    return place


def shard_members(rows, y):
    """Members of samples with a label as a number, and a text behind the first."""
    members = [each for k, row in enumerate(rows) for each in ((f"{k:05d}.cls", str(y[k]).encode()), (f"{k:05d}.png", row))]
    return [*members[:1], *members[1:2], ("README", b"x"), *members[2:]]


SOURCES = ("hf-data:{}/hub", "hf-data:{}/text.parquet", "wds:{}/wds", "wds:{}/wds/cifar10-test-{{000000..000001}}.tar")


@pytest.mark.parametrize("source", SOURCES)
@pytest.mark.parametrize("keeping", [{"pixels": "memory"}, {"pixels": "disk", "workers": 1}])
def test_images_and_labels_are_those_of_the_npz_file(folder, source, keeping):
    needed("webdataset")
    known, found = load_images(f"npz:{folder}/set.npz"), load_images(source.format(folder), **keeping)
    assert found.classes == known.classes
    assert torch.equal(found.y, known.y)
    assert torch.equal(found.ids, known.ids)
    order = torch.randperm(N, generator=torch.Generator().manual_seed(0))
    for rows in (torch.arange(N), order):
        assert torch.equal(found.pixels(rows), known.pixels(rows))


@pytest.mark.parametrize("source", SOURCES[:3])
def test_verdicts_are_those_of_the_npz_file(folder, source):
    known, found = (
        load_images(name.format(folder), n=24, **how) for name, how in ((f"npz:{folder}/set.npz", {}), (source, {"pixels": "disk"}))
    )
    model = load_with_origin(f"{Path(os.environ['ROBENCH_MODELS']) / 'zoo.py'}:resnet20_standard", classes=10, shape=(3, 32, 32)).model
    results = [evaluate(model, images, suite=["pgd,steps=5", "fgsm"], eps=1 / 255, seed=0) for images in (known, found)]
    verdicts = [[(one.clean_pred, one.broken_by) for one in each.samples] for each in results]
    assert verdicts[0] == verdicts[1]
    assert len({broken for _, broken in verdicts[0]}) > 1
