"""ImageNet as people have it on their disks, made small: archives, parquet files, shards, the sets around it; networks with known answers.

An image shows one of ten colours, each of which stands for a class of `trees.CLASSES`; a network of `colour_network` tells them apart,
whatever the size and the crop. So every share of right answers is known from which colour an image was given.
"""

from __future__ import annotations

import io
import os
import tarfile
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from containers import write_parquet, write_shard
from PIL import Image
from torch import nn
from trees import CLASSES, devkit_numbers, put_text

from robench.data.imagenet import imagenet_classes, index_of_wnids

WNIDS = tuple(CLASSES.values())
COLOURS = tuple((r, g, b) for r in (40, 210) for g in (60, 200) for b in (30, 130, 230))[:10]
WRONG = (3, 11)  # validation images that show the colour of another class
N = 14  # validation images


def colour_of(k: int) -> int:
    """The colour that validation image k shows: that of its class, but for those of WRONG."""
    return (k + (k in WRONG)) % 10


def validation_name(k: int) -> str:
    """The name of validation image k."""
    return f"ILSVRC2012_val_{k + 1:08d}"


def jpeg(colour: int, width: int = 224, height: int = 224) -> bytes:
    """An image of one colour with a little grain, as a JPEG file."""
    grain = np.random.default_rng(colour).integers(-1, 2, (height, width, 3))
    file = io.BytesIO()
    Image.fromarray((np.array(COLOURS[colour]) + grain).astype(np.uint8)).save(file, "jpeg", quality=92)
    return file.getvalue()


def validation_jpegs() -> list[bytes]:
    """The N validation images, of odd sizes."""
    return [jpeg(colour_of(k), 250 + 7 * k, 301 - 3 * k) for k in range(N)]


def put(path: Path, content: bytes) -> None:
    """A file, with its folder."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)


def add_bytes(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    """A member of a tar file."""
    info = tarfile.TarInfo(name)
    info.size = len(content)
    archive.addfile(info, io.BytesIO(content))


def put_archives(top: Path) -> None:
    """The validation tar and the development kit of image-net.org, and Kaggle's zip."""
    files, wnids = validation_jpegs(), [WNIDS[k % 10] for k in range(N)]
    with tarfile.open(top / "ILSVRC2012_img_val.tar", "w") as archive:
        for k, content in enumerate(files):
            add_bytes(archive, f"{validation_name(k)}.JPEG", content)
    numbers = "".join(f"{number}\n" for number in devkit_numbers([(None, wnid) for wnid in wnids]))
    with tarfile.open(top / "ILSVRC2012_devkit_t12.tar.gz", "w:gz") as archive:
        add_bytes(archive, "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt", numbers.encode())
    with zipfile.ZipFile(top / "imagenet-object-localization-challenge.zip", "w") as archive:
        for k, content in enumerate(files):
            archive.writestr(f"ILSVRC/Data/CLS-LOC/val/{validation_name(k)}.JPEG", content)
        archive.writestr("ILSVRC/Data/CLS-LOC/train/n01440764/n01440764_1.JPEG", files[0])
        lines = [f"{validation_name(k)},{wnid} 1 2 30 31 " for k, wnid in enumerate(wnids)]
        archive.writestr("LOC_val_solution.csv", "\n".join(["ImageId,PredictionString", *lines]) + "\n")


def put_containers(top: Path, hub: Path) -> None:
    """The hub's parquet files in its cache, and shards as timm/imagenet-1k-wds has them."""
    files, index = validation_jpegs(), index_of_wnids()
    names = [", ".join(one.names) for one in imagenet_classes()]
    home, revision = hub / "datasets--ILSVRC--imagenet-1k", "0123abcd" * 5
    put(home / "refs" / "main", revision.encode())
    for k, content in enumerate(files):
        write_parquet(
            home / "snapshots" / revision / f"data/validation-{k:05d}-of-{N:05d}.parquet",
            [content],
            [index[WNIDS[k % 10]]],
            paths=[f"{validation_name(k)}_{WNIDS[k % 10]}.JPEG"],
            features={"image": {"_type": "Image"}, "label": {"names": names, "_type": "ClassLabel"}},
        )
    for shard in range(N // 2):
        members = [
            member
            for k in (2 * shard, 2 * shard + 1)
            for member in ((f"{validation_name(k)}.jpg", files[k]), (f"{validation_name(k)}.cls", str(index[WNIDS[k % 10]]).encode()))
        ]
        write_shard(top / f"shards/imagenet1k-validation-{shard:02d}.tar", members)


def put_lists(top: Path) -> None:
    """Eight validation images in an order of their own, as RobustBench lists its 5,000."""
    put_text(top / "imagenet_test_image_ids.txt", [f"{WNIDS[k % 10]}/{validation_name(k)}.JPEG" for k in (9, 2, 3, 0, 12, 7, 5, 1)])


def put_linked_classes(top: Path, wnids: Iterable[str], store: Path) -> None:
    """Class folders of one image each; those of WNIDS show their own colour, others the first, all as links to files of a store."""
    for k, content in enumerate(jpeg(colour) for colour in range(10)):
        put(store / f"{k}.jpg", content)
    for wnid in wnids:
        (top / wnid).mkdir(parents=True)
        os.link(store / f"{WNIDS.index(wnid) if wnid in WNIDS else 0}.jpg", top / wnid / f"{wnid}_0.JPEG")


def put_kin(top: Path) -> None:
    """ImageNet-A and -R (200 classes each), -V2 (folders by number) and -Sketch (1,000 wnids)."""
    store, every = top / "store", [one.wnid for one in imagenet_classes()]
    for word in "ar":
        put_linked_classes(top / f"imagenet-{word}", [one.wnid for one in imagenet_classes() if word in one.sets], store)
    put_linked_classes(top / "sketch", every, store)
    v2 = top / "imagenetv2-matched-frequency-format-val"
    for k, wnid in enumerate(every):
        (v2 / str(k)).mkdir(parents=True)
        os.link(top / "sketch" / wnid / f"{wnid}_0.JPEG", v2 / str(k) / "0.jpeg")


def put_corrupted(top: Path, names: Iterable[str], store: Path, others: Iterable[str] = ()) -> None:
    """A tree CORRUPTION/SEVERITY/WNID/FILE of the validation images; at severity s images 0 to s - 1 show the colour of another class.

    Args:
        top: the folder.
        names: its corruptions, with a group before a slash or without.
        store: where the files lie that it links to.
        others: further classes of one image each, which no test looks at.
    """
    for colour in range(10):
        put(store / f"{colour}.jpg", jpeg(colour))
    for wnid in others:
        put(store / "classes" / wnid / "ILSVRC2012_val_00049999.JPEG", jpeg(0))
    for name in names:
        for severity in range(1, 6):
            cell = top / name / str(severity)
            for k in range(N):
                (cell / WNIDS[k % 10]).mkdir(parents=True, exist_ok=True)
                shown = (k + 5) % 10 if k < severity else colour_of(k)
                os.link(store / f"{shown}.jpg", cell / WNIDS[k % 10] / f"{validation_name(k)}.JPEG")
            for wnid in others:
                (cell / wnid).symlink_to(store / "classes" / wnid)


def put_training(top: Path) -> None:
    """ImageNet-100 in the list of CMC: two small training images of each class and one of validation."""
    every = [one.wnid for one in imagenet_classes() if "100-cmc" in one.sets]
    for k, wnid in enumerate(every):
        for copy in range(2):
            put(top / "train" / wnid / f"{wnid}_{copy}.JPEG", jpeg(k % 10, 48, 40))
        put(top / "val" / wnid / f"{validation_name(k)}.JPEG", jpeg(k % 10, 44, 52))


def last_layer(network: nn.Module) -> nn.Linear:
    """The last linear layer of a network."""
    return [module for module in network.modules() if isinstance(module, nn.Linear)][-1]


def colour_network(network: nn.Module, mean: Any, std: Any) -> nn.Module:
    """The network with batch norms that fit pictures of the colours, and a last layer that tells the ten classes apart.

    Args:
        network: with 1,000 outputs, in any state.
        mean: of the pixels in [0, 1], as the network's library takes it off.
        std: the same for the spread.
    """
    index, seen = index_of_wnids(), []
    shown = [np.asarray(Image.open(io.BytesIO(jpeg(k, 270, 280)))) for k in range(10)]
    seen_colours = torch.stack([torch.from_numpy(one[20:244, 20:244].copy()) for one in shown]).permute(0, 3, 1, 2)[:, None] / 255
    noisy = seen_colours + torch.linspace(0, 0.01, 4).view(4, 1, 1, 1) * torch.randn(10, 4, 3, 224, 224)
    x = (noisy.flatten(0, 1) - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
    with torch.no_grad():
        network.train()(x + 0.5 * torch.randn_like(x))  # so that no batch norm enlarges what hardly differs
        layer = last_layer(network)
        hook = layer.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
        network.eval()(x)
        hook.remove()
        layer.weight.zero_()
        layer.bias.fill_(-10)
        weights, bias = separating_weights(seen[0].double())
        for column, wnid in enumerate(WNIDS):
            layer.weight[index[wnid]], layer.bias[index[wnid]] = weights[:, column], bias[column]
    return network


def separating_weights(features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Weights (D, 10) and biases (10,) of ridge regression: row k of features (40, D) has logit 10 for colour k // 4, -10 for others."""
    middle = features.mean(0)
    apart = features - middle
    wanted = 20 * torch.eye(10, dtype=torch.float64).repeat_interleave(4, 0) - 10
    kernel = apart @ apart.T
    dual = torch.linalg.solve(kernel + 1e-5 * kernel.diagonal().mean() * torch.eye(40, dtype=torch.float64), wanted - wanted.mean(0))
    weights = apart.T @ dual
    return weights.float(), (wanted.mean(0) - middle @ weights).float()


def share_right(rows: Iterable[int], severity: int = 0) -> float:
    """The share of the validation images of these places that a colour network gets right, clean or in `put_corrupted`."""
    right = [k not in WRONG and k >= severity for k in rows]
    return sum(right) / len(right)


def only(rows: Iterable[Mapping[str, str]], **wanted: str) -> Mapping[str, str]:
    """The one row with these values."""
    (row,) = [row for row in rows if all(row[key] == value for key, value in wanted.items())]
    return row
