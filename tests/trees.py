"""Small images as trees of the layouts in which ImageNet and its kin are handed round; each writer returns the folder to name."""

import csv
import json
from pathlib import Path

import numpy as np
from PIL import Image

from robench.data.imagenet import imagenet_classes, index_of_wnids

CLASSES = {  # of CIFAR-10: a class of ImageNet of that kind
    "airplane": "n02690373", "automobile": "n04285008", "bird": "n01560419", "cat": "n02123045", "deer": "n02423022",
    "dog": "n02099601", "frog": "n01641577", "horse": "n02389026", "ship": "n03095699", "truck": "n04467665",
}  # fmt: skip
V2_VARIANTS = ("imagenetv2-matched-frequency-format-val", "imagenetv2-threshold0.7-format-val", "imagenetv2-top-images-format-val")


def put_image(path, pixels):
    """One image (H, W, 3) uint8 as the bytes of a PNG file, whatever the ending says, so that no pixel changes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.asarray(pixels, dtype=np.uint8)).save(path, format="PNG")


def put_text(path, lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n", "utf-8")


def validation_name(k):
    """The name of validation image k, from 0."""
    return f"ILSVRC2012_val_{k + 1:08d}"


def put_class_folders(top, images, name=validation_name):
    for k, (pixels, wnid) in enumerate(images):
        put_image(top / wnid / f"{name(k)}.JPEG", pixels)
    return top


def put_flat(top, images):
    for k, (pixels, _) in enumerate(images):
        put_image(top / f"{validation_name(k)}.JPEG", pixels)
    return top


def put_train(top, images):
    """A training set of one image a class, beside what is read."""
    for wnid, pixels in {wnid: pixels for pixels, wnid in images}.items():
        put_image(top / wnid / f"{wnid}_1.JPEG", pixels)


def devkit_numbers(images):
    number = {one.wnid: one.devkit_number for one in imagenet_classes()}
    return [str(number[wnid]) for _, wnid in images]


def wnid_folders(top, images):
    """val/WNID/*, without train."""
    put_class_folders(top / "val", images)
    return top


def devkit(top, images):
    """Images beside the development kit as it unpacks."""
    put_flat(top / "val", images)
    put_text(top / "ILSVRC2012_devkit_t12/data/ILSVRC2012_validation_ground_truth.txt", devkit_numbers(images))
    return top


def devkit_beside_images(top, images):
    """Images and the ground truth in one folder, which is named itself."""
    put_flat(top, images)
    put_text(top / "ILSVRC2012_validation_ground_truth.txt", devkit_numbers(images))
    return top


def caffe(top, images):
    """val.txt of caffe_ilsvrc12: FILE and the index of the sorted wnids; a line for index 0 is among those of other images."""
    index = index_of_wnids()
    put_flat(top / "ILSVRC2012_img_val", images)
    lines = [f"{validation_name(k)}.JPEG {index[wnid]}" for k, (_, wnid) in enumerate(images)]
    put_text(top / "caffe_ilsvrc12/val.txt", [*lines, "ILSVRC2012_val_00050000.JPEG 0"])
    return top


def tensorflow(top, images):
    """A wnid a line, as TensorFlow's scripts take them; with a training set."""
    put_flat(top / "validation", images)
    put_train(top / "train", images)
    put_text(top / "imagenet_2012_validation_synset_labels.txt", [wnid for _, wnid in images])
    return top


def kaggle(top, images):
    """The tree of Kaggle's competition, in any order of the csv."""
    put_flat(top / "ILSVRC/Data/CLS-LOC/val", images)
    put_train(top / "ILSVRC/Data/CLS-LOC/train", images)
    put_image(top / "ILSVRC/Data/CLS-LOC/test/ILSVRC2012_test_00000001.JPEG", images[0][0])
    lines = [f"{validation_name(k)},{wnid} 1 2 30 31 {wnid} 3 4 8 9 " for k, (_, wnid) in enumerate(images)]
    put_text(top / "LOC_val_solution.csv", ["ImageId,PredictionString", *reversed(lines)])
    put_text(top / "LOC_synset_mapping.txt", [f"{one.wnid} {', '.join(one.names)}" for one in imagenet_classes()])
    return top


def sketch(top, images):
    """ImageNet-Sketch, -A and -R: WNID/*, without splits."""
    return put_class_folders(top / "sketch", images, lambda k: f"sketch_{k}")


def imagenet_v2(top, images):
    """ImageNet-V2: INDEX/*.jpeg, without splits."""
    for k, (pixels, wnid) in enumerate(images):
        put_image(top / V2_VARIANTS[0] / str(index_of_wnids()[wnid]) / f"{k:040x}.jpeg", pixels)
    return top


def imagenette(top, images):
    """Imagenette and Imagewoof: train/WNID/* and val/WNID/*, in the folder as which they unpack."""
    put_class_folders(top / "imagenette2/val", images, lambda k: f"image_{k}")
    put_train(top / "imagenette2/train", images)
    put_text(top / "imagenette2/noisy_imagenette.csv", ["path,noisy_labels_0"])
    return top


def tiny_imagenet(top, images):
    """Tiny-ImageNet: val/images/* with annotations, test/images/* without, and wnids.txt in an order of its own."""
    for k, (pixels, wnid) in enumerate(images):
        put_image(top / f"val/images/val_{k}.JPEG", pixels)
        put_image(top / f"train/{wnid}/images/{wnid}_{k}.JPEG", pixels)
    put_image(top / "test/images/test_0.JPEG", images[0][0])
    put_text(top / "val/val_annotations.txt", [f"val_{k}.JPEG\t{wnid}\t0\t32\t44\t62" for k, (_, wnid) in enumerate(images)])
    put_text(top / "wnids.txt", sorted({wnid for _, wnid in images}, key=lambda wnid: wnid[::-1]))
    put_text(top / "words.txt", [f"{wnid}\tsome words" for wnid in CLASSES.values()])
    return top


# name: writer(top, [(pixels, wnid), ...]) -> the folder to name with --data folder:
WRITERS = (wnid_folders, devkit, devkit_beside_images, caffe, tensorflow, kaggle, sketch, imagenet_v2, imagenette, tiny_imagenet)
TREES = {writer.__name__: writer for writer in WRITERS}


def made_images(n, seed=0, side=8, wnids=()):
    """n random images of some classes, those of CLASSES unless they are given, each class in turn."""
    wnids = wnids or list(CLASSES.values())
    pixels = np.random.default_rng(seed).integers(0, 256, (n, side, side, 3), dtype=np.uint8)
    return [(pixels[k], wnids[k % len(wnids)]) for k in range(n)]


def cifar_images(n, folder):
    """The first n test images of CIFAR-10 with wnids of their kind, from a folder with cifar10-lossless.npz."""
    with np.load(Path(folder) / "cifar10-lossless.npz") as stored:
        return [(x, list(CLASSES.values())[int(label)]) for x, label in zip(stored["x_test"][:n], stored["y_test"][:n], strict=True)]


def put_label_map(path, pairs):
    """A label map in json or csv, by its ending."""
    if path.suffix == ".json":
        path.write_text(json.dumps(dict(pairs)), "utf-8")
    else:
        with path.open("w", encoding="utf-8", newline="") as lines:
            csv.writer(lines).writerows(pairs)
    return path
