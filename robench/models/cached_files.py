"""Files of weights where torch and Hugging Face keep them on this machine; fetched only where the user allows it."""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import torch

from robench.core.errors import InputError
from robench.models.model_files import first_line

FETCH = "pass --download (download=True in Python) to fetch it"
HASH_IN_NAME = re.compile(r"-([a-f0-9]{8,})\.")  # torch's rule: FILENAME-SHA256.EXT with the first eight digits of the hash or more
HASHED_BLOB = re.compile(r"[a-f0-9]{64}")  # how Hugging Face's cache names large files


def torch_hub_file(address: str, name: str = "", *, download: bool, source: str) -> Path:
    """The file of weights of an address in torch's cache, as torch.hub names it, with the hash that its name promises.

    Args:
        address: where the file lies in the network.
        name: its name, where it is not the last part of the address.
        download: whether it may be fetched.
        source: the model that it belongs to, for sentences.

    Raises:
        InputError: where it is not there and may not be fetched, where it cannot be fetched, and where its content is another than
            its name says.
    """
    place = torch_hub_place(address, name)
    promised = HASH_IN_NAME.search(place.name)
    if not place.is_file():
        if not download:
            raise InputError(f"{source} needs the file {place.name} in {place.parent}, which is not there: {FETCH} from {address}")
        fetch_into(place, address, promised[1] if promised else None)
    if promised:
        refuse_other_content(place, promised[1], f"its name says {promised[1]}")
    return place


def torch_hub_place(address: str, name: str = "") -> Path:
    """Where torch's cache keeps the file of an address, whether it is there or not.

    Args:
        address: where the file lies in the network.
        name: its name, where it is not the last part of the address.
    """
    return Path(torch.hub.get_dir()) / "checkpoints" / (name or Path(urlparse(address).path).name)


def fetch_into(place: Path, address: str, hash_prefix: str | None) -> None:
    """Fetches a file with torch's own function, which checks the hash and writes under a temporary name; InputError where that fails."""
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        torch.hub.download_url_to_file(address, str(place), hash_prefix, progress=sys.stderr.isatty())
    except (OSError, RuntimeError) as error:
        raise InputError(f"{place.name} cannot be fetched from {address} ({type(error).__name__}: {first_line(error)})") from error


def refuse_other_content(place: Path, prefix: str, promise: str) -> None:
    """InputError where the sha256 of a file does not begin as promised."""
    with place.open("rb") as handle:
        digest = hashlib.file_digest(handle, "sha256").hexdigest()
    if not digest.startswith(prefix):
        raise InputError(
            f"{place.name} in {place.parent} is damaged or another file: {promise}, and its sha256 begins with "
            f"{digest[: max(len(prefix[:16]), 8)]}; delete it and fetch it again"
        )


def hugging_face_file(
    repository: str, names: Sequence[str], *, revision: str | None = None, download: bool, source: str, others: str = ""
) -> Path:
    """The first of several files of a model's repository that Hugging Face's cache has.

    Args:
        repository: ORG/NAME.
        names: names of files, the preferred one first.
        revision: a branch, tag or commit; None for main.
        download: whether it may be fetched; the first of the names that the repository has is taken.
        source: the model that it belongs to, for sentences.
        others: what else would do, for the sentence where it is missing.

    Raises:
        InputError: where it is not there and may not be fetched, where it cannot be fetched, where the cache holds other content than its
            name says, and where huggingface_hub is not installed.
    """
    place = cached_hugging_face_file(repository, names, revision=revision, source=source)
    if place is None and download:
        place = fetched_hugging_face_file(repository, names, revision, source)
    if place is None:
        folder = Path(hub_module(source).constants.HF_HUB_CACHE) / f"models--{repository.replace('/', '--')}" / "snapshots"
        at = f" at {revision}" if revision else ""
        raise InputError(f"{source} needs {' or '.join(names)} of {repository}{at} in {folder}, which is not there{others}: {FETCH}")
    return place


def cached_hugging_face_file(repository: str, names: Sequence[str], *, revision: str | None = None, source: str) -> Path | None:
    """The first of several files of a model's repository that Hugging Face's cache has; None where it has none of them.

    Args:
        repository: ORG/NAME.
        names: names of files, the preferred one first.
        revision: a branch, tag or commit; None for main.
        source: the model that it belongs to, for sentences.

    Raises:
        InputError: for a name that no repository can have, and where the content of a file is not what the cache's name for it says.
    """
    hub = hub_module(source)
    for name in names:
        try:
            found = hub.try_to_load_from_cache(repository, name, revision=revision)
        except ValueError as error:
            raise InputError(f"{source} is no model of Hugging Face's hub: {first_line(error)}") from error
        if isinstance(found, str):
            blob = Path(found).resolve()
            if HASHED_BLOB.fullmatch(blob.name):
                refuse_other_content(blob, blob.name, f"the cache keeps it as {name} of {repository} under {blob.name[:8]}...")
            return Path(found)
    return None


def fetched_hugging_face_file(repository: str, names: Sequence[str], revision: str | None, source: str) -> Path:
    """The first of several files that a repository has, fetched into the cache; InputError where none can be."""
    hub = hub_module(source)
    for name in names:
        try:
            return Path(hub.hf_hub_download(repository, name, revision=revision))
        except hub.errors.EntryNotFoundError as error:
            if name == names[-1] or isinstance(error, hub.errors.LocalEntryNotFoundError):
                raise InputError(f"{name} of {repository} cannot be fetched ({first_line(error)})") from error
        except Exception as error:  # whatever the network, the host or a missing permission raises
            raise InputError(f"{name} of {repository} cannot be fetched ({type(error).__name__}: {first_line(error)})") from error
    raise AssertionError("there is at least one name")


def hub_module(source: str) -> Any:
    """The package huggingface_hub; InputError where it is not installed."""
    try:
        import huggingface_hub
        import huggingface_hub.constants
        import huggingface_hub.errors
    except ImportError:
        raise InputError(f"{source} needs the package huggingface_hub, which is not installed: pip install huggingface_hub") from None
    return huggingface_hub
