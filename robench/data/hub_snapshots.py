"""Data sets of Hugging Face's hub as they lie in its cache on this machine, and what is fetched where that is allowed.

Only parquet files and README.md are fetched or read; scripts of a repository are never run.
"""

from __future__ import annotations

import glob
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from robench.core.errors import InputError

HUB_NAME = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")
REVISION = re.compile(r"\w[\w.-]*(/\w[\w.-]*)*")
CONVERTED = "refs/convert/parquet"  # the revision in which the hub keeps the parquet files that it has made of other formats


def hub_package(repo: str) -> Any:
    """The package huggingface_hub; InputError where it is not installed."""
    try:
        import huggingface_hub.constants
    except ImportError:
        raise InputError(f"hf-data:{repo} is looked up by huggingface_hub, which is not installed: pip install huggingface_hub") from None
    return huggingface_hub


def repository_folder(repo: str) -> Path:
    """Where the hub's cache keeps a data set: $HF_HUB_CACHE, else $HF_HOME/hub, else ~/.cache/huggingface/hub, as huggingface_hub has it.

    Args:
        repo: ORG/NAME.

    Raises:
        InputError: where huggingface_hub is not installed.
    """
    return Path(hub_package(repo).constants.HF_HUB_CACHE) / f"datasets--{repo.replace('/', '--')}"


def cached_snapshot(repo: str, revision: str) -> Path | None:
    """The folder of a revision in the cache; None where it was not fetched.

    Args:
        repo: ORG/NAME.
        revision: a branch, such as main, or a commit.

    Raises:
        InputError: for a revision that cannot be one, and where huggingface_hub is not installed.
    """
    if not REVISION.fullmatch(revision):
        raise InputError(f"hf-data:{repo}: {revision!r} is no revision: name a branch such as main, or a commit")
    folder = repository_folder(repo)
    reference = folder / "refs" / revision
    try:
        commit = reference.read_text().strip() if reference.is_file() else revision
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{reference} cannot be read ({error}): remove it, and fetch the data set again") from None
    snapshot = folder / "snapshots" / commit
    return snapshot if re.fullmatch(r"[\w.-]+", commit) and snapshot.is_dir() else None


def fetched_snapshot(repo: str, revision: str, wanted: Callable[[Sequence[str]], Sequence[str]]) -> Path:
    """The folder of a revision after its parquet files were fetched.

    Args:
        repo: ORG/NAME.
        revision: a branch or a commit.
        wanted: which of the parquet files, by their paths in the repository, are to be fetched; raises InputError where none fit.

    Raises:
        InputError: where the repository has no parquet files, and where it cannot be reached, with what the hub says.
    """
    hub, call = hub_package(repo), {"repo_type": "dataset", "revision": revision}
    try:
        names = [name for name in hub.HfApi().list_repo_files(repo, **call) if name.endswith(".parquet")]
        if not names:
            raise InputError(
                f"the data set {repo} of the hub has no parquet files, and no script is run: those that the hub may have made of it are "
                f"hf-data:{repo},revision={CONVERTED}"
            )
        patterns = [*(glob.escape(name) for name in wanted(names)), "README.md"]
        return Path(hub.snapshot_download(repo, allow_patterns=patterns, **call))
    except InputError:
        raise
    except Exception as error:  # of the network, of the hub, of the disk
        words = " ".join(str(error).split())[:300]
        raise InputError(f"hf-data:{repo} could not be fetched into {repository_folder(repo)} ({type(error).__name__}: {words})") from error
