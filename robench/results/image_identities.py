"""Which images a run has seen: the file and a digest of the pixels of each, in images.csv, and what the manifest says of them.

By these a run whose images were in memory, one that decoded them as it went, and one whose models resize them otherwise can be compared.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from robench.core.cells import csv_cells
from robench.core.errors import InputError
from robench.core.preprocessing import preprocessing_from_plain

if TYPE_CHECKING:
    from robench.data import Images
    from robench.runs.execution import FinishedRun
    from robench.runs.types import Case

IMAGES_TABLE = "images"  # images.csv
DIGEST_COLUMN = "pixels"
IDENTITY_COLUMNS = ("checkpoint", "sample", "file", DIGEST_COLUMN)
MOST_NAMED_FILES = 20  # damaged ones in the manifest


@dataclass(frozen=True)
class ImageIdentity:
    """What a run knows of an image.

    Attributes:
        file: its name, CLASS/FILE; "" where it is no file.
        digest: of its pixels as the model was shown them; "" where it is not known.
    """

    file: str
    digest: str


def identity_columns(run: FinishedRun) -> dict[str, list[Any]]:
    """The columns of images.csv: each image that was seen, once for each way in which it was resized and cut.

    Args:
        run: a run that has come to its end.

    Returns:
        Columns by name; none where neither files nor pixels are known. `checkpoint` is empty where all models were shown the same pixels.
    """
    cases = {id(case.pool): case for case in reversed(run.cases)}  # the first case of each pool
    table: dict[str, list[Any]] = {name: [] for name in IDENTITY_COLUMNS}
    for case in reversed(cases.values()):
        files, digests = files_of_case(case), digests_of_case(run, case)
        if not files and not digests:
            continue
        users = [one.subject.name for one in run.cases if one.pool is case.pool] if len(cases) > 1 else [""]
        for user in users:
            for place in run.ledger.seen.nonzero().flatten().tolist():
                values = user, int(case.pool.ids[place]), files[place] if files else "", digests[place] if digests else ""
                for name, value in zip(IDENTITY_COLUMNS, values, strict=True):
                    table[name].append(value)
    return table if table["sample"] else {}


def files_of_case(case: Case) -> Sequence[str]:
    """The names of the files of a subject's images; none where they are no files."""
    return case.pool.source.files if case.pool.source is not None else ()


def digests_of_case(run: FinishedRun, case: Case) -> Sequence[str]:
    """The digests of the pixels that a subject was shown, as its clean pass found them; none where it had none."""
    return next(iter(run.ledger.word_columns(case.name, DIGEST_COLUMN)), [])


def identity_words(run: FinishedRun, images: Images | None) -> dict[str, Any]:
    """What the manifest says of the images beside their name and number: their files, how they were resized, what was left out.

    Args:
        run: a run that has come to its end.
        images: the images of the run; None where they are not at hand.

    Returns:
        "files" with the digest of the files, "preprocessing" (by model where models differ in it), "chosen" where fewer images were seen
        than chosen, and "damaged" with the names of those that cannot be read.
    """
    seen_count, skipped = int(run.ledger.seen.sum()), sorted(run.ledger.skipped)
    files = images.files if images is not None else ()
    damaged = [*(images.left_out if images is not None else ()), *(files[place] if files else str(place) for place in skipped)]
    chosen_count = len(run.pool) + (len(images.left_out) if images is not None else 0)
    ways = {case.subject.name: case.subject.images.preprocessing for case in run.cases if case.subject.images is not None}
    words: dict[str, Any] = {}
    if images is not None and images.files_digest:
        words["files"] = images.files_digest
    if images is not None and images.preprocessing is not None:
        words["preprocessing"] = images.preprocessing.plain()
    if ways and images is not None:
        every = {case.subject.name: ways.get(case.subject.name, images.preprocessing) for case in run.cases}
        words["preprocessing"] = {name: None if way is None else way.plain() for name, way in every.items()}
    if chosen_count > seen_count:
        words["chosen"] = chosen_count
    if damaged:
        words |= {"damaged_count": len(damaged), "damaged": damaged[:MOST_NAMED_FILES]}
    return words


def image_identities(folder: Path, checkpoint: str) -> dict[int, ImageIdentity]:
    """What a results folder says of the images of a model, by their ids; {} where it says nothing, as older ones.

    Args:
        folder: a results folder.
        checkpoint: the name of the model.

    Raises:
        InputError: where images.csv cannot be read.
    """
    path = folder / f"{IMAGES_TABLE}.csv"
    if not path.exists():
        return {}
    try:
        head, *lines = csv_cells(path.read_bytes().decode())
        if tuple(head) != IDENTITY_COLUMNS or any(len(line) != len(head) for line in lines):
            raise ValueError("other columns than robench writes")
        return {int(sample): ImageIdentity(file, digest) for name, sample, file, digest in lines if name in ("", checkpoint)}
    except (OSError, ValueError) as error:
        raise InputError(f"cannot read {path} ({error}): copy the folder anew, or measure again with --force") from None


def preprocessing_text(manifest: Mapping[str, Any], checkpoint: str) -> str:
    """How the images of a model were resized and cut, in words, as a manifest says it.

    Args:
        manifest: the content of manifest.json.
        checkpoint: the name of the model.
    """
    data = manifest.get("data")
    said = data.get("preprocessing") if isinstance(data, Mapping) else None
    if isinstance(said, Mapping) and "resize" not in said:
        said = said.get(checkpoint)
    return "as they are" if said is None else preprocessing_from_plain(said, "the manifest").words()
