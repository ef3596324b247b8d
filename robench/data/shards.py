"""Images in webdataset's shards: tar files whose members of one sample share a name up to its first dot.

Headers and labels are read here; an image is read when it is decoded, from where it lies. webdataset itself hands samples out one after the
other and decodes by their endings, pickles too; here any image can be asked for, and nothing but images, labels and texts is looked at.
"""

from __future__ import annotations

import re
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, NamedTuple, overload

import torch
from torch import Tensor

from robench.core.contained_images import MOST_IMAGE_BYTES, slice_bytes
from robench.core.decoding import Item
from robench.core.errors import InputError
from robench.core.files import is_existing_file, json_value
from robench.data.catalogues import Catalogue
from robench.data.files import MOST_CLASSES
from robench.data.layouts import ENDINGS
from robench.data.shard_files import shard_list
from robench.data.source_options import source_and_options

SHARD_OPTIONS = ("image", "label", "classes")
LABEL_KEYS = ("label", "labels", "cls", "class", "class_id", "target", "y")  # of a .json member, in this order
CLASS_FILES = ("classes.txt", "wnids.txt", "classnames.txt")
TEXT_ENDINGS = ("cls", "json", "txt")
KEY = re.compile(r"((?:.*/|)[^.]+)[.]([^/]*)")  # as webdataset parts a name
META = re.compile(r"__[^/]*__($|/)")  # members that webdataset passes over
MOST_MEMBERS = 1_000_000  # of one shard
MOST_LABEL_BYTES = 2**20  # of a .cls, .json or .txt member
PACKED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
TAR_ERRORS = (tarfile.TarError, OSError, ValueError, OverflowError, MemoryError, EOFError)

Label = int | str


class Member(NamedTuple):
    """A member of a shard: where its bytes begin, how many they are, and its name."""

    offset: int
    size: int
    name: str


@dataclass
class ShardSample:
    """The members of one key that stand together in a shard, by their endings."""

    path: str
    key: str
    members: dict[str, Member] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.path}: the sample {self.key}"


class SliceItems(Sequence[Item]):
    """The items of the images in some shards, made when they are asked for."""

    def __init__(self, paths: Sequence[str], places: Sequence[int]) -> None:
        """Takes the paths, and of each image the number of its shard, its offset and its length, one after the other."""
        self.paths, self.places = paths, torch.tensor(places, dtype=torch.int64).reshape(-1, 3)

    def __len__(self) -> int:
        return len(self.places)

    @overload
    def __getitem__(self, place: int) -> Item: ...
    @overload
    def __getitem__(self, place: slice) -> list[Item]: ...
    def __getitem__(self, place: int | slice) -> Item | list[Item]:
        if isinstance(place, slice):
            return [self[k] for k in range(*place.indices(len(self)))]
        shard, offset, length = self.places[place].tolist()
        return ("slice", self.paths[shard], offset, length)


def shard_catalogue(text: str, split: str, data_dir: Path, download: bool = False) -> Catalogue:  # noqa: ARG001
    """The images of one split of webdataset's shards, in the order of the shards' paths and of their members.

    Args:
        text: a folder, a file, or a pattern such as "imagenet-val-{000000..000049}.tar" or "*.tar", here or in data_dir, with options:
            `image` is the ending of the images where samples have several, `label` is "cls", "txt" or a key of the .json members, `classes`
            is a text file with the name of a class a line.
        split: "train", "test" or "val"; val stands in for test. Shards whose names say no split are read whole, as "all".
        data_dir: where patterns are looked up, too.
        download: not used: shards are read from local files alone.

    Raises:
        InputError: one sentence, for whatever is missing, damaged, or can be read in two ways, and for anything but local files.
    """
    pattern, options = source_and_options(text, "wds", SHARD_OPTIONS)
    shards = shard_list(pattern, split, data_dir)
    others: Counter[str] = Counter()
    found = [found_samples(path, options, others) for path in shards.paths]
    names, labels = [name for each in found for name in each.names], [label for each in found for label in each.labels]
    if not names:
        raise InputError(f"{shards.name} holds no samples: none of the members of {shards.paths[0]} is an image with a label")
    class_names, source = class_names_beside(shards.paths[0].parent, options.get("classes"))
    y, classes, more = labels_as_numbers(labels, class_names, shards.name)
    places = [number for k, each in enumerate(found) for offset, size in each.places for number in (k, offset, size)]
    if len({*names}) < len(names):  # shards that count from 0 each
        names = [f"{path.stem}/{name}" for path, each in zip(shards.paths, found, strict=True) for name in each.names]
    count, where = len(found), next(each.words for each in found if each.words)
    understood = (
        f"{shards.name} was read from {count} shard{'s' * (count > 1)}: {where}{source}; {len(names)} images, {len(classes)} classes"
    )
    notes = (understood, *shards.notes, *left_out_members(others, shards.name), *more)
    items = SliceItems([str(path) for path in shards.paths], places)
    return Catalogue(shards.name, shards.split, items, names, y, torch.arange(len(y)), classes, notes)


@dataclass
class FoundSamples:
    """What is kept of the samples of a shard: of each image its offset and size, its name and its label; where they stand, in words."""

    places: list[tuple[int, int]] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    labels: list[Label] = field(default_factory=list)
    words: str = ""


def found_samples(path: Path, options: Mapping[str, str], others: Counter[str]) -> FoundSamples:
    """The samples of a shard, whose labels stand where its first sample has one; `others` counts the members that are not looked at."""
    found, read = FoundSamples(), None
    for sample in samples_of_shard(path, others):
        ending = image_ending(sample, options.get("image"))
        if read is None:
            what, read = label_reader(sample, options.get("label"))
            found.words = f"images in .{ending}, labels in {what}"
        member = sample.members[ending]
        found.places.append((member.offset, member.size))
        found.names.append(member.name)
        found.labels.append(read(sample))
    return found


def samples_of_shard(path: Path, others: Counter[str]) -> Iterator[ShardSample]:
    """The samples of a shard, in their order; `others` counts the members that are not looked at, by their ending."""
    sample, seen = ShardSample(str(path), ""), set[str]()
    for member in members_of_shard(path):
        key, ending = key_and_ending(member.name)
        if not key:
            continue
        if key != sample.key:
            if sample.members:
                yield sample
            if key in seen:
                raise InputError(f"{path}: the members of {key} do not stand together, or the key stands twice: write the shard again")
            seen.add(key)
            sample = ShardSample(str(path), key)
        if not is_looked_at(ending):
            others[ending.rpartition(".")[2]] += 1
            continue
        refuse_odd_member(member, path)
        if ending in sample.members:
            raise InputError(f"{sample} has two members .{ending}: write the shard again")
        sample.members[ending] = Member(member.offset_data, member.size, readable_name(member.name))
    if sample.members:
        yield sample


def members_of_shard(path: Path) -> Iterator[tarfile.TarInfo]:
    """The members of a tar file by their headers, data are passed over; InputError where the file is packed, damaged or cut short."""
    try:
        with path.open("rb") as handle:
            begin = handle.read(6)
            packing = next((name for sign, name in PACKED.items() if begin.startswith(sign)), "")
            if packing:
                raise InputError(f"{path} is packed with {packing}, and images are read from where they lie: unpack it to a plain .tar")
            handle.seek(0)
            with tarfile.open(fileobj=handle, mode="r:") as archive:
                count = 0
                while (member := archive.next()) is not None:
                    count += 1
                    if count > MOST_MEMBERS:
                        raise InputError(f"{path} has more than {MOST_MEMBERS:,} members: write it as several shards")
                    if member.isreg() or member.issym() or member.islnk():
                        yield member
                    archive.members.clear()  # type: ignore[attr-defined] # which else keeps them all
                refuse_missing_end(handle, archive.offset, path)
    except InputError:
        raise
    except TAR_ERRORS as error:
        words = " ".join(str(error).split())[:200]
        raise InputError(f"{path} cannot be read as a tar file ({words}): it is damaged or was cut short; fetch it again") from error


def refuse_missing_end(handle: IO[bytes], offset: int, path: Path) -> None:
    """InputError unless two blocks of zeros end a tar file and nothing but zeros follows: else it was cut short, or has a hole."""
    handle.seek(offset)
    block = handle.read(2 * tarfile.BLOCKSIZE)
    if any(block):
        raise InputError(f"{path} has a damaged header (at byte {offset:,}): fetch it again")
    if len(block) < 2 * tarfile.BLOCKSIZE:
        raise InputError(f"{path} has no end mark: it was cut short (at byte {offset:,}): fetch it again")
    while rest := handle.read(2**20):
        if any(rest):
            raise InputError(f"{path} goes on behind its end mark (at byte {offset:,}): a part of it is missing, or two files were joined")


def key_and_ending(name: str) -> tuple[str, str]:
    """Key and ending of a member, as webdataset parts its name at the first dot of the last part; "" for one that it passes over.

    Args:
        name: of the member.

    Example:
        >>> key_and_ending("n01440764/ILSVRC2012_val_00000293.JPEG"), key_and_ending("a.b/0001.seg.png")
        (('n01440764/ILSVRC2012_val_00000293', 'jpeg'), ('a.b/0001', 'seg.png'))
    """
    match = KEY.fullmatch(name)
    if match is None or META.match(name):
        return "", ""
    return readable_name(match[1]), readable_name(match[2]).lower()


def readable_name(name: str) -> str:
    """A name of any bytes as text that can be written."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def is_looked_at(ending: str) -> bool:
    """Whether a member of this ending is an image or a text."""
    return ending in TEXT_ENDINGS or is_image_ending(ending)


def is_image_ending(ending: str) -> bool:
    """Whether a member of this ending is an image: what stands behind its last dot decides."""
    return f".{ending.rpartition('.')[2]}" in ENDINGS


def refuse_odd_member(member: tarfile.TarInfo, path: Path) -> None:
    """InputError for links, which are not followed, for members with holes, and for ones that are too large."""
    if member.issym() or member.islnk():
        raise InputError(f"{path}: {member.name} is a link, and none is followed: write the file itself into the shard")
    if member.issparse():
        raise InputError(f"{path}: {member.name} is stored with holes (a sparse file): write the shard without them")
    most = MOST_IMAGE_BYTES if is_image_ending(key_and_ending(member.name)[1]) else MOST_LABEL_BYTES
    if member.size > most:
        raise InputError(f"{path}: {member.name} has {member.size:,} bytes: {most:,} are the most")


def image_ending(sample: ShardSample, asked: str | None) -> str:
    """The ending of a sample's image; InputError where it has none, or several and none is asked for."""
    found = [ending for ending in sample.members if is_image_ending(ending)]
    if asked is not None:
        if asked.removeprefix(".").lower() not in found:
            raise InputError(f"{sample} has no image .{asked.removeprefix('.')}: it has {ending_words(sample)}")
        return asked.removeprefix(".").lower()
    if len(found) != 1:
        what = (
            f"{len(found)} images, .{' and .'.join(found)}: add ,image={found[0]} to the name"
            if found
            else f"no image: it has {ending_words(sample)}"
        )
        raise InputError(f"{sample} has {what}")
    return found[0]


def ending_words(sample: ShardSample) -> str:
    """The endings that a sample has."""
    return ", ".join(f".{ending}" for ending in sample.members)


def label_reader(sample: ShardSample, asked: str | None) -> tuple[str, Callable[[ShardSample], Label]]:
    """Where labels stand, in words, and what reads one: as asked, else .cls, a key of .json or .txt, as the first sample has.

    Raises:
        InputError: where the first sample has none of them.
    """
    if asked in ("cls", "txt") or (asked is None and "cls" in sample.members):
        ending = asked or "cls"
        return f".{ending}", lambda each: plain_label(member_text(each, ending), each)
    key = asked
    if key is None and "json" in sample.members:
        there = json_of(sample)
        key = next((name for name in LABEL_KEYS if name in there), None)
        if key is None and "txt" not in sample.members:
            raise InputError(f"{sample} has none of the keys {', '.join(LABEL_KEYS)} in its .json: add ,label=KEY to the name")
    if key is not None:
        return f"{key} of .json", lambda each: json_label(each, key)
    if "txt" in sample.members:
        return ".txt", lambda each: plain_label(member_text(each, "txt"), each)
    raise InputError(f"{sample} has no label: no .cls, .json or .txt stands beside its image ({ending_words(sample)})")


def member_text(sample: ShardSample, ending: str) -> str:
    """The text in a member; InputError where it is missing or no text."""
    if ending not in sample.members:
        raise InputError(f"{sample} has no .{ending} with its label: it has {ending_words(sample)}")
    try:
        return slice_bytes(sample.path, *sample.members[ending][:2]).decode()
    except UnicodeDecodeError:
        raise InputError(f"{sample}: its .{ending} is no text in UTF-8") from None


def plain_label(text: str, sample: ShardSample) -> Label:
    """A label as a text says it: a whole number, or the name of a class."""
    words = text.strip()
    if not words or len(words) > 200 or "\n" in words:
        raise InputError(f"{sample}: {words[:40]!r} is no label: one whole number or the name of a class is expected")
    return int(words) if re.fullmatch(r"[0-9]{1,9}", words) else words


def json_of(sample: ShardSample) -> dict[str, object]:
    """What the .json of a sample holds."""
    try:
        value = json_value(member_text(sample, "json"))
    except InputError:
        raise
    except ValueError as error:
        raise InputError(f"{sample}: its .json cannot be read ({error})") from None
    if not isinstance(value, dict):
        raise InputError(f"{sample}: its .json holds {type(value).__name__}, and must hold keys with values")
    return value


def json_label(sample: ShardSample, key: str) -> Label:
    """The label under a key of a sample's .json."""
    value = json_of(sample).get(key)
    if isinstance(value, str) or (type(value) is int and 0 <= value < 10**9):
        return plain_label(str(value), sample)
    raise InputError(f"{sample}: {key} in its .json is {str(value)[:40]}: a whole number or the name of a class is expected")


def class_names_beside(folder: Path, asked: str | None) -> tuple[tuple[str, ...], str]:
    """The names of the classes that a text file says, a line each, and where they come from, for a note; () where there is none."""
    named = [Path(asked).expanduser(), folder / asked] if asked else [folder / name for name in CLASS_FILES]
    path = next((path for path in named if is_existing_file(path)), None)
    if asked and path is None:
        raise InputError(f"there is no file {asked} here or in {folder} with the names of classes, a line each")
    if path is None:
        return (), ""
    try:
        lines = path.read_text("utf-8-sig").splitlines() if path.stat().st_size <= MOST_LABEL_BYTES * 16 else []
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} cannot be read as names of classes, a line each ({error})") from None
    names = tuple(line.strip() for line in lines if line.strip())
    if len({*names}) < len(names) or not names:
        raise InputError(f"{path} {'names a class twice' if names else 'names no class'}: it must name each class once, a line each")
    return names, f", names of classes in {path.name}"


def labels_as_numbers(labels: Sequence[Label], names: tuple[str, ...], name: str) -> tuple[Tensor, tuple[str, ...], tuple[str, ...]]:
    """The labels as numbers (N,), the names of the classes, and notes; InputError where some are numbers and others text."""
    texts = sorted({label for label in labels if isinstance(label, str)})
    numbers = [label for label in labels if isinstance(label, int)]
    if texts and numbers:
        raise InputError(f"{name}: some labels are numbers, such as {numbers[0]}, and others text, such as {texts[0]!r}")
    notes = () if names or not texts else (f"{name}: its labels are text, and count its {len(texts)} texts in their order",)
    most = max(numbers, default=-1)
    classes = names or tuple(texts) or tuple(map(str, range(min(most, MOST_CLASSES) + 1)))
    if most >= len(classes):
        limit = f"there are names for {len(names)} classes" if names else f"{MOST_CLASSES:,} classes are the most"
        raise InputError(f"{name}: labels go up to {most}, and {limit}")
    place = {text: k for k, text in enumerate(classes)}
    if unknown := next((text for text in texts if text not in place), None):
        raise InputError(f"{name}: the label {unknown!r} is none of the {len(names)} names of classes")
    return torch.tensor([place[label] if isinstance(label, str) else label for label in labels], dtype=torch.int64), classes, notes


def left_out_members(others: Counter[str], name: str) -> list[str]:
    """A note on the members that are not looked at."""
    few = ", ".join(f"{count} .{ending}" for ending, count in sorted(others.items())[:6])
    return [f"{name}: members that are no images, labels or texts are not read: {few}"] if others else []
