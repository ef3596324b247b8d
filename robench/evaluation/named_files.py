"""The files of the user's that a call names, with their digests, and the code among them. Nothing is run or imported to find them.

A call is what the manifest keeps under "arguments": its command, its models and its options by name (`cli.calls`).
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

from robench.core.errors import InputError
from robench.core.files import expanded_path, is_existing_file, is_existing_path
from robench.core.recipes import Recipe, parse_recipe, split_recipes
from robench.corruptions.frost import photos_digest
from robench.data.files import dataset_path
from robench.evaluation.run_words import results_words
from robench.evaluation.suites import is_suite_file, recipe_lines
from robench.models.architectures import is_library, runs_code
from robench.models.identity import file_digest
from robench.models.loading import named_code
from robench.models.model_files import model_file_kind
from robench.runs.stages.attack import TRANSFER

STORED_PROGRAMS = ("torchscript", "pt2")
LARGEST_SUITE = 2**20  # bytes of a suite that is looked through for code


@dataclass(frozen=True)
class NamedFile:
    """A file, or a folder that is read as one, that a call names.

    Attributes:
        reference: what names it: "mine.py:attack", "net.pt", "module:factory".
        path: where it lies; None for a module that cannot be found.
        is_code: whether it is code, or a stored program.
    """

    reference: str
    path: Path | None
    is_code: bool = False


def named_files(arguments: Mapping[str, Any]) -> list[NamedFile]:
    """Every file that a call names, each once.

    Args:
        arguments: "models" and "options" of the call, checked to be texts, numbers, booleans and lists of these.
    """
    options, found = dict(arguments["options"]), list[NamedFile]()
    if arguments["command"] == "train" and "suite" in options:
        options["suite"] = str(options["suite"]).split("+")
    for source in (
        *arguments["models"],
        *option_texts(options, "reference"),
        *option_texts(options, "teacher"),
        *option_texts(options, "init"),
    ):
        found += model_files(source)
    for key, finder in FINDERS.items():
        for text in option_texts(options, key):
            with suppress(InputError, OSError):  # the command itself will say what is wrong with it
                found += finder(text, options)
    return list(dict.fromkeys(found))


def option_texts(options: Mapping[str, Any], key: str) -> list[str]:
    """What was written for an option, each time it was given."""
    value = options.get(key, [])
    return [text for one in (value if isinstance(value, list) else [value]) if not isinstance(one, bool) and (text := str(one))]


def model_files(source: str) -> list[NamedFile]:
    """The file behind a model, with the code that it is; none for a library's."""
    with suppress(InputError, OSError):
        path = Path(source)
        if source == "alexnet" or (is_library(source) and not is_existing_path(path)):
            return []
        if (reference := named_code(source)[0]) and not is_existing_path(path):
            return [code_file(reference)]
        kind = model_file_kind(path) if is_existing_file(path) else ""
        return [NamedFile(source, path, kind in STORED_PROGRAMS)]
    return [NamedFile(source, Path(source))]


def code_file(reference: str) -> NamedFile:
    """The file behind `file.py:function` or `module:function`."""
    name = reference.rpartition(":")[0]
    return NamedFile(reference, Path(name) if ".py:" in reference else module_path(name), is_code=True)


def module_path(name: str) -> Path | None:
    """Where a module lies that would be imported by this name from the current folder; None where there is none. Imports nothing."""
    places: list[str] | None = [str(Path.cwd()), *sys.path]
    spec = None
    for part in name.split("."):
        with suppress(KeyError, ImportError, ValueError):  # of a namespace inside another, which only an import could tell
            spec = PathFinder.find_spec(part, places) if places else None
        places = [*spec.submodule_search_locations] if spec is not None and spec.submodule_search_locations else None
    return Path(spec.origin) if spec is not None and spec.origin else None


def architecture_files(text: str, _: Mapping[str, Any]) -> Iterable[NamedFile]:
    """The code that an architecture is, if it is any.

    Args:
        text: what the option says.
    """
    name = parse_recipe(text).name
    return [code_file(name)] if runs_code(name) else []


def layout_files(text: str, options: Mapping[str, Any]) -> Iterator[NamedFile]:
    """The code that reads a layout, and the file with labels that it is given.

    Args:
        text: what the option says.
        options: the other options.
    """
    yield from function_files(text, options)
    for path in re.findall(r",labels=([^,]+)", text):
        yield NamedFile(path, Path(path))


def function_files(text: str, _: Mapping[str, Any]) -> Iterable[NamedFile]:
    """The file of a function of the user's own, if one is named.

    Args:
        text: what the option says.
    """
    return recipe_files(parse_recipe(text)) if ".py:" in text else []


def data_files(text: str, options: Mapping[str, Any]) -> Iterable[NamedFile]:
    """The npz file of a data set, the file of the function that makes it, or the file with the names of its classes.

    Args:
        text: what the option says.
        options: the other options of the call.
    """
    kind, _, path = text.partition(":")
    if kind == "npz" and path:
        place = Path(str(options.get("data-dir", "data")))
        with suppress(InputError):
            return [NamedFile(text, dataset_path(expanded_path(Path(path)), place, kind))]
        return [NamedFile(text, Path(path))]
    if kind in ("hf-data", "wds"):
        return [NamedFile(each, Path(each)) for each in re.findall(r",classes=([^,]+)", path)]
    return [] if kind == "folder" else function_files(text, options)


def sentence_files(text: str, _: Mapping[str, Any]) -> Iterator[NamedFile]:
    """The files that recipes name, which are written as one option takes them, and those in a suite file among them.

    Args:
        text: what the option says.
    """
    for sentence in split_recipes([text]):
        with suppress(InputError):
            yield from recipe_files(parse_recipe(sentence))


def recipe_files(recipe: Recipe) -> Iterator[NamedFile]:
    """The files that a recipe names, and those of the recipe whose images it is given."""
    if recipe.on is not None:
        yield from recipe_files(recipe.on)
    if recipe.name.startswith(TRANSFER):
        yield from model_files(recipe.name.removeprefix(TRANSFER))
    elif ".py:" in recipe.name:
        yield code_file(recipe.name)
    elif is_suite_file(recipe.name):
        path = Path(recipe.name)
        yield NamedFile(recipe.name, path)
        if is_existing_file(path) and path.stat().st_size <= LARGEST_SUITE:
            for line in recipe_lines(path):
                with suppress(InputError):
                    yield from recipe_files(parse_recipe(line))


def grid_files(text: str, _: Mapping[str, Any]) -> Iterable[NamedFile]:
    """The code that the grid of a sweep names.

    Args:
        text: what the option says.
    """
    return [code_file(reference) for reference in re.findall(r"[^=,:\s]+\.py:\w+", text)]


def folder_files(text: str, _: Mapping[str, Any]) -> Iterable[NamedFile]:
    """The file or folder of this path.

    Args:
        text: what the option says.
    """
    return [NamedFile(text, Path(text))]


def joined_files(text: str, _: Mapping[str, Any]) -> Iterator[NamedFile]:
    """The results folders that are joined.

    Args:
        text: what the option says.
    """
    for part in [text] if is_existing_path(Path(text)) else text.split(","):
        yield NamedFile(part, Path(part))


FINDERS: dict[str, Callable[[str, Mapping[str, Any]], Iterable[NamedFile]]] = {
    **dict.fromkeys(("suite", "attack", "method", "score", "against", "corruption", "objective", "reg"), sentence_files),
    "arch": architecture_files, "sweep": grid_files, "data": data_files, "layout": layout_files, "indices": folder_files,
    "label-map": folder_files,
    "frost-dir": folder_files, "join": joined_files,
}  # fmt: skip


def digests_of_files(files: Iterable[NamedFile]) -> dict[str, str]:
    """The sha256 of each file that is there, by its path as it was written; of a folder of photos or of results that of what is read there.

    Args:
        files: what `named_files` found.
    """
    digests: dict[str, str] = {}
    for file in files:
        if file.path is not None:
            with suppress(InputError, OSError):
                digests |= digests_below(file.path)
    return {path: digest for path, digest in digests.items() if digest}


def digests_below(path: Path) -> dict[str, str]:
    """The digest of a file; of a results folder those of the files that are read there, of another folder that of its photos."""
    if not path.is_dir():
        return {str(path): file_digest(path)}
    if (path / "manifest.json").exists():
        return {str(path / name): digest for name, digest in results_words(path).items() if name != "path"}
    return {str(path): photos_digest(str(path))}
