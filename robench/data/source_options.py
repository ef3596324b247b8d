"""What follows a source in its name, as in `hf-data:ORG/NAME,config=plain_text`, and which split the name of a file says."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path, PurePosixPath

from robench.core.errors import InputError
from robench.core.files import is_existing_path
from robench.core.recipes import did_you_mean
from robench.data.layouts import SPLIT_WORDS, STAND_INS, WHOLE_SET

FILE_SPLITS = {**SPLIT_WORDS, "dev": "val", "eval": "test", "evaluation": "test"}  # as Hugging Face's datasets reads names of files
SHARD_NUMBER = re.compile(r"-(\d+)-of-(\d+)$")


def source_and_options(text: str, kind: str, known: Sequence[str]) -> tuple[str, dict[str, str]]:
    """A source and the options behind it, `SOURCE,key=value,...`.

    Args:
        text: as the user wrote it; of a path that exists no comma is looked at.
        kind: what stands before the colon, for sentences.
        known: the names of the options that there are.

    Raises:
        InputError: for an option that is not known, has no value, or is given twice.

    Example:
        >>> source_and_options("uoft-cs/cifar10,config=plain_text", "hf-data", ["config"])
        ('uoft-cs/cifar10', {'config': 'plain_text'})
    """
    if is_existing_path(Path(text)):
        return text, {}
    source, *parts = re.split(r",(?=\w+=)", text)
    options: dict[str, str] = {}
    for part in parts:
        key, _, value = part.partition("=")
        if key not in known:
            raise InputError(f"{kind}:{source} takes no option {key!r}{did_you_mean(key, known)}")
        if key in options or not value:
            raise InputError(f"{kind}:{source} gives {key} {'twice' if key in options else 'no value'}: write {key}=VALUE once")
        options[key] = value
    return source, options


def split_in_name(relative: str) -> str:
    """The split that the name of a file says: "train", "test" or "val"; another word in "data/WORD-00000-of-00004.parquet"; "" for none.

    A word counts where it stands alone between the marks "-", "_", ".", a digit or a blank, in the name of the file or else in that of a
    folder, as in Hugging Face's datasets.

    Args:
        relative: the path below the folder of the set, with "/".

    Example:
        >>> [split_in_name(name) for name in ("data/validation-00000-of-00014.parquet", "default/test/0000.parquet", "imagenet-val-01.tar")]
        ['val', 'test', 'val']
    """
    path = PurePosixPath(relative)
    stem = path.name.removesuffix(path.suffix)
    if SHARD_NUMBER.search(stem) and path.parent.name == "data":  # what push_to_hub writes: the split's name as it is
        word = SHARD_NUMBER.sub("", stem)
        return FILE_SPLITS.get(word.casefold(), word)
    for name in (stem, *reversed(path.parent.parts)):
        words = [FILE_SPLITS[word] for word in re.split(r"[-._ 0-9]+", name.casefold()) if word in FILE_SPLITS]
        if words:
            return words[0]
    return ""


def chosen_split(splits: Iterable[str], asked: str, name: str) -> tuple[str, str, tuple[str, ...]]:
    """The split to take of those that there are, what it is called, and notes.

    Args:
        splits: those that files say, "" for none.
        asked: "train", "test" or "val"; val stands in for test.
        name: what sentences call the set.

    Returns:
        The split among `splits`; what rows call it: "all" where no file says one; notes.

    Raises:
        InputError: where there is no such split.
    """
    there = sorted({*splits})
    if asked not in STAND_INS:
        raise InputError(f"{name} has no split {asked!r}: choose one of {', '.join(sorted(STAND_INS))}")
    if there == [""]:
        return "", WHOLE_SET, ()
    taken = next((split for split in STAND_INS[asked] if split in there), None)
    if taken is None:
        raise InputError(f"{name} has no split {asked!r}: its files say {', '.join(split or 'no split' for split in there)}")
    notes = () if taken == asked else (f"{name} has no split {asked!r}: {taken} stands in for it",)
    return taken, asked, notes + ((f"{name}: files whose names say no split are left out",) if "" in there else ())


def refuse_missing_shards(names: Iterable[str], name: str, advice: str) -> None:
    """InputError where files are called NAME-00001-of-00004, and some of the 4 are not there.

    Args:
        names: the paths of the files.
        name: what sentences call the set.
        advice: what to do about it.
    """
    found: dict[tuple[str, int], set[int]] = {}
    for each in names:
        stem = each.rpartition(".")[0]
        if match := SHARD_NUMBER.search(stem):
            found.setdefault((stem[: match.start()], int(match[2])), set()).add(int(match[1]))
    for (stem, count), numbers in found.items():
        if len(numbers) != count:
            raise InputError(f"{name} has {len(numbers)} of the {count} files {stem}-...-of-{count:05d}: {advice}")
