"""Files that say the class of each image where no class folders do: of ImageNet's devkit, Caffe, Kaggle, TensorFlow, Tiny-ImageNet.

The numbers in them mean two things. The development kit counts its own way (ILSVRC2012_ID, 1 to 1,000), everybody else counts the wnids in
their order, from 0. Where a file leaves both open it is refused, and `numbering` decides.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from robench.core.errors import InputError
from robench.data.imagenet import imagenet_classes, is_wnid, wnid_of_devkit_numbers

NUMBERINGS = ("devkit", "index", "index-from-1")
DEVKIT_FILE = "ILSVRC2012_validation_ground_truth.txt"
KAGGLE_FILE = "LOC_val_solution.csv"
LABEL_FILES = (  # names under which labels of the validation images are handed round
    KAGGLE_FILE, DEVKIT_FILE, "imagenet_2012_validation_synset_labels.txt", "imagenet2012_validation_labels.txt", "validation_labels.txt",
    "val.txt",
)  # fmt: skip
LABEL_FOLDERS = (".", "data", "devkit/data", "ILSVRC2012_devkit_t12/data", "caffe_ilsvrc12", "meta")
STEM = "ILSVRC2012_val_{:08d}"  # of the k-th validation image


def wnids_by_stem(path: Path, numbering: str = "") -> dict[str, str]:
    """The wnid of each image that a label file names, by the file's name without folders and ending.

    Read are: Kaggle's csv (ImageId,PredictionString), lines "FILE WNID" or "FILE NUMBER" (Caffe's val.txt), and lines "WNID" or "NUMBER"
    alone, the k-th for ILSVRC2012_val_ and k in eight digits.

    Args:
        path: the file.
        numbering: what numbers mean, one of NUMBERINGS; "" where the file tells.

    Raises:
        InputError: where the file cannot be read, a line says no class of ImageNet, a file stands twice, or numbers have two readings.
    """
    if numbering and numbering not in NUMBERINGS:
        raise InputError(f"unknown numbering {numbering!r}: choose one of {', '.join(NUMBERINGS)}")
    pairs = file_and_class(path)
    numbers = {pair[1] for pair in pairs if pair[1].isascii() and pair[1].isdigit()}
    wnid_of = reading_of_numbers(path, {int(number) for number in numbers}, numbering) if numbers else {}
    found: dict[str, str] = {}
    for line, (file, word) in enumerate(pairs, 1):
        stem = Path(file).stem if file else STEM.format(line)
        wnid = wnid_of.get(int(word)) if word in numbers else word if is_wnid(word) else None
        if wnid is None:
            raise InputError(
                f"{path.name}: entry {line} has {word[:40]!r} where the class should be: a wnid, or a number of a class of ImageNet"
            )
        if found.setdefault(stem, wnid) != wnid:
            raise InputError(f"{path.name} names {stem} twice, as {found[stem]} and as {wnid}")
    return found


def file_and_class(path: Path) -> list[tuple[str, str]]:
    """What each line says, as (file, class); the file is "" where a line has the class alone."""
    try:
        lines = [line for line in path.read_text("utf-8-sig").splitlines() if line.strip()]
    except FileNotFoundError:
        raise InputError(f"there is no label file {path}") from None
    except OSError as error:
        raise InputError(f"the label file {path} cannot be read: {error.strerror or error}") from None
    except UnicodeDecodeError:
        raise InputError(f"the label file {path} is no text") from None
    if not lines:
        raise InputError(f"the label file {path} is empty")
    if lines[0].replace(" ", "").startswith("ImageId,"):
        return [(row[0], row[1].split()[0] if row[1].split() else "") for row in csv.reader(lines[1:]) if len(row) > 1]
    words = [line.split() for line in lines]
    widths = {min(len(each), 2) for each in words}
    if len(widths) > 1:
        odd = next(k for k, each in enumerate(words, 1) if min(len(each), 2) != min(len(words[0]), 2))
        raise InputError(f"{path.name}: entry {odd} has another form than the first: {lines[odd - 1][:60]!r}")
    return [("", each[0]) if len(each) == 1 else (each[0], each[1]) for each in words]


def reading_of_numbers(path: Path, numbers: set[int], numbering: str) -> Mapping[int, str]:
    """The wnid that each number of a file stands for; InputError where two readings are possible."""
    by_index = {one.index: one.wnid for one in imagenet_classes()}
    readings: dict[str, Callable[[], Mapping[int, str]]] = {
        "devkit": wnid_of_devkit_numbers,
        "index": lambda: by_index,
        "index-from-1": lambda: {index + 1: wnid for index, wnid in by_index.items()},
    }
    counted_from_one = path.name == DEVKIT_FILE and 0 not in numbers
    meant = numbering or ("devkit" if counted_from_one else "index" if 0 in numbers and path.name != DEVKIT_FILE else "")
    if not meant:
        what = "counts from 0, which the development kit does not" if 0 in numbers else "has no 0"
        raise InputError(
            f"the numbers in {path.name} have two readings (it {what}): say with --layout imagenet,numbering=devkit that they are those of "
            "the development kit (ILSVRC2012_ID), or with numbering=index or numbering=index-from-1 that they count the wnids in order"
        )
    return readings[meant]()


def label_file_beside(folder: Path, above: int) -> list[Path]:
    """The label files in a folder, in those above it, and in the folders of the development kit and of Caffe there.

    Args:
        folder: the folder of the images.
        above: how many folders above it are looked into.
    """
    places = [folder, *folder.parents[:above]]
    found = [place / kit / name for place in places for kit in LABEL_FOLDERS for name in LABEL_FILES]
    there = [file for file in dict.fromkeys(found) if file.is_file()]
    return [file for file in there if file.name != "val.txt" or STEM.format(0)[:15] in file.read_text("utf-8", "replace")[:4096]]


def agreed_labels(files: Sequence[Path], stems: Sequence[str], numbering: str) -> dict[str, str]:
    """The wnid of each of these images in the first of the files; InputError where another file says otherwise.

    Args:
        files: label files, at least one.
        stems: names of the images, without their endings.
        numbering: as in `wnids_by_stem`.

    Raises:
        InputError: where files contradict each other, and where an image has no label.
    """
    each = [wnids_by_stem(file, numbering) for file in files]
    for other, file in zip(each[1:], files[1:], strict=True):
        differing = next((stem for stem in stems if stem in each[0] and stem in other and each[0][stem] != other[stem]), None)
        if differing is not None:
            raise InputError(
                f"{files[0].name} says that {differing} is {each[0][differing]}, and {file.name} says {other[differing]}: name the one "
                f"that is right, with --layout imagenet,labels={files[0]}"
            )
    missing = [stem for stem in stems if stem not in each[0]]
    if missing:
        raise InputError(f"{files[0].name} says no class of {missing[0]}, nor of {len(missing) - 1} other images of the folder")
    return {stem: each[0][stem] for stem in stems}


def tiny_annotations(path: Path) -> dict[str, str]:
    """The wnid of each image in Tiny-ImageNet's val_annotations.txt, by the file's name.

    Args:
        path: the file, with lines FILE, wnid and four corners, between tabs.

    Raises:
        InputError: where a line has another form.
    """
    pairs = file_and_class(path)
    bad = next((k for k, (file, word) in enumerate(pairs, 1) if not file or not is_wnid(word)), None)
    if bad is not None:
        raise InputError(f"{path}: line {bad} has another form than FILE, a tab and a wnid")
    return dict(pairs)
