"""Sequences of perturbed images on the disk: arrays as CIFAR-10-P has them, trees of videos as ImageNet-P has them.

arrays  FOLDER/PERTURBATION.npy, (N, T, H, W, 3) uint8: N sequences of T frames; labels.npy, (N,), may be there
tree    FOLDER/PERTURBATION/CLASS/FILE.mp4, or FOLDER/GROUP/PERTURBATION/CLASS/FILE.mp4

Names are those of Hendrycks & Dietterich (1903.12261) and of hendrycks/robustness; noises of the difficulties 2 and 3 are PERTURBATION_2
and PERTURBATION_3. Nothing but headers, labels and names is read until frames are asked for.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from robench.core.decoding import DamagedImageError
from robench.core.errors import InputError
from robench.core.files import expanded_path
from robench.core.perturbation_names import DIFFICULTIES, PERTURBATIONS, SequenceCell, is_noise, stem_of_cell
from robench.core.recipes import lookup
from robench.data import files, layouts
from robench.data.corrupted_sets import LABELS_FILE, array_names, mapped_array
from robench.data.corrupted_trees import centre_crop, ranks_and_labels
from robench.data.images import Choice
from robench.data.videos import video_frames

VIDEO_ENDING = ".mp4"
LAYOUTS_P = {(1000, 50_000, 224): "imagenet-p", (200, 10_000, 64): "tiny-imagenet-p"}  # (classes, videos, side): name
STEMS = {stem_of_cell(name, difficulty): name for name in PERTURBATIONS for difficulty in DIFFICULTIES}
KNOWN_SEQUENCES = 16  # sequences of each array or folder by whose bytes a set is known


@dataclass(frozen=True, eq=False)
class SequenceSet:
    """N sequences of frames under several perturbations; their pixels stay on the disk until some are asked for.

    Attributes:
        name: as the rows spell it, folder:NAME-p.
        cells: each perturbation with its difficulty.
        y: (N,) int64 labels, in the order of use; -1 where the set has none.
        ids: (N,) int64, the index of each image in the split that the set was made of.
        classes: the K names.
        shape: channels, height and width of a frame.
        lengths: perturbation and difficulty -> T, the number of frames.
        frames: frames(perturbation, difficulty, rows (M,)) -> (M, T, C, H, W) uint8.
        digest: digest(rows) -> hex digest by which the set is known: sizes and bytes of some of these sequences under each perturbation.
        layout: the released set whose shape the folder has; else "".
        notes: sentences for the user.
        split: of the images that the set was made of.
    """

    name: str
    cells: tuple[SequenceCell, ...]
    y: Tensor
    ids: Tensor
    classes: tuple[str, ...]
    shape: tuple[int, int, int]
    lengths: Mapping[SequenceCell, int]
    frames: Callable[[str, int, Tensor], Tensor]
    digest: Callable[[Tensor], str]
    layout: str = ""
    notes: tuple[str, ...] = ()
    split: str = "test"

    def __len__(self) -> int:
        return len(self.y)

    def rows(self, choice: Choice) -> Tensor:
        """The places of the chosen sequences, the same under every perturbation.

        Args:
            choice: which images are wanted.
        """
        return choice.rows(self.ids, self.name)


def holds_sequences(folder: Path) -> bool:
    """Whether a folder holds sequences: arrays of five dimensions, or folders of classes with videos, under names of perturbations.

    Args:
        folder: the folder.
    """
    folder = expanded_path(folder)
    if not folder.is_dir():
        return False
    arrays = [name for name in array_names(folder) if name in STEMS]
    if arrays:
        try:
            return np.lib.format.open_memmap(folder / f"{arrays[0]}.npy", "r").ndim == 5
        except (OSError, ValueError, EOFError):
            return False
    return any(has_videos(path) for path in perturbation_folders(folder).values())


def read_sequence_set(folder: Path, names: Sequence[str] | None = None, difficulties: Sequence[int] = (1,)) -> SequenceSet:
    """The sequences in a folder, of either layout; all its perturbations unless some are named.

    Args:
        folder: the folder that holds the arrays, or the tree.
        names: the perturbations to use; None takes all that are there.
        difficulties: from 1 to 3; the authors' tables are of 1.

    Raises:
        InputError: for an unknown perturbation or difficulty, and where what was asked for is missing, damaged or does not fit together.
    """
    folder = expanded_path(folder)
    wrong = next((one for one in difficulties if one not in DIFFICULTIES or isinstance(one, bool)), None)
    if wrong is not None:
        raise InputError(f"sequences have the difficulties 1, 2 and 3, not {wrong}: --severity takes one of these")
    reader = read_sequence_arrays if any(name in STEMS for name in array_names(folder)) else read_sequence_tree
    return reader(folder, names, tuple(dict.fromkeys(difficulties)))


def wanted_cells(there: Sequence[str], names: Sequence[str] | None, difficulties: Sequence[int], folder: Path) -> tuple[SequenceCell, ...]:
    """The cells to use, in the order of the paper. InputError for an unknown name and for what is not there."""
    for name in names or ():
        lookup(name, dict.fromkeys(PERTURBATIONS), "perturbation")
    mine = tuple(dict.fromkeys(names or [name for name in PERTURBATIONS if name in there]))
    cells = tuple((name, difficulty) for name in mine for difficulty in difficulties)
    lacking = next((stem_of_cell(*cell) for cell in cells if stem_of_cell(*cell) not in there), None)
    if lacking or not cells:
        raise InputError(f"{folder} has no {lacking or 'sequences'}: it holds {', '.join(there) or 'none of the perturbations'}")
    return cells


def name_of_sequences(folder: Path) -> str:
    """The name of the set in a folder: that of the folder, for nothing tells a released set for sure."""
    name = folder.resolve().name
    return f"folder:{name if name.lower().endswith('-p') else name + '-p'}"


def layout_note(folder: Path, layout: str) -> tuple[str, ...]:
    """A note on a set that has the layout of a released one."""
    said = {"cifar-p": "CIFAR-10-P or CIFAR-100-P", "imagenet-p": "ImageNet-P", "tiny-imagenet-p": "Tiny-ImageNet-P"}.get(layout)
    what = f"{folder.resolve().name} has the layout of {said} and is named after its folder: there is nothing to compare its frames with"
    return (what,) if said else ()


# --- arrays


def read_sequence_arrays(folder: Path, names: Sequence[str] | None, difficulties: Sequence[int]) -> SequenceSet:
    """The sequences in a folder of arrays. InputError for arrays of another type or shape, or of other images than the first."""
    there = [name for name in array_names(folder) if name in STEMS]
    cells = wanted_cells(there, names, difficulties, folder)
    shapes = {cell: sequence_shape(folder / f"{stem_of_cell(*cell)}.npy", cell[1]) for cell in cells}
    first = shapes[cells[0]]
    odd = next((cell for cell, shape in shapes.items() if (shape[0], *shape[2:]) != (first[0], *first[2:])), None)
    if odd is not None:
        raise InputError(f"{folder}: {cells[0][0]} has shape {first} and {stem_of_cell(*odd)} {shapes[odd]}: all must be the same images")
    n, _, height, width, _ = first
    y = labels_of_sequences(folder, n)
    count = int(y.max()) + 1 if bool((y >= 0).all()) else 100 if "100" in folder.resolve().name else 10
    layout = "cifar-p" if (n, height, width) == (10_000, 32, 32) else ""
    lengths = {cell: shape[1] for cell, shape in shapes.items()}
    return SequenceSet(
        name_of_sequences(folder), cells, y, torch.arange(n), tuple(map(str, range(count))), (3, height, width), lengths,
        partial(frames_of_array, folder), partial(digest_of_arrays, folder, cells), layout, layout_note(folder, layout),
    )  # fmt: skip


def sequence_shape(path: Path, difficulty: int) -> tuple[int, int, int, int, int]:
    """The shape of an array of sequences; InputError unless it is (N, T, H, W, 3) uint8 with frames to compare."""
    array = mapped_array(path)
    if array.dtype != np.uint8 or array.ndim != 5 or array.shape[4] != 3 or not array.size:
        raise InputError(f"{path} holds {array.dtype} of shape {array.shape}: sequences must be uint8, (N, T, H, W, 3)")
    n, t, height, width, channels = array.shape
    refuse_short(path, t, 1 if is_noise(path.stem) else difficulty)
    return n, t, height, width, channels


def refuse_short(path: Path, frames: int, apart: int) -> None:
    """InputError where a sequence has no two frames that are so far apart."""
    if frames <= apart:
        raise InputError(f"{path} has {frames} frame{'s' * (frames != 1)}: there are no two that are {apart} apart to compare")


def labels_of_sequences(folder: Path, n: int) -> Tensor:
    """The labels (N,) of a folder of arrays, -1 where there are none: a flip needs no label. InputError for labels of another length."""
    if not (folder / LABELS_FILE).exists():
        return torch.full((n,), -1)
    y = files.whole_numbers(mapped_array(folder / LABELS_FILE), f"{folder / LABELS_FILE}")
    if len(y) != n or not 0 <= int(y.min()) <= int(y.max()) < files.MOST_CLASSES:
        raise InputError(f"{folder / LABELS_FILE} has {len(y)} labels from {int(y.min())} to {int(y.max())} for {n} sequences")
    return y


def frames_of_array(folder: Path, perturbation: str, difficulty: int, rows: Tensor) -> Tensor:
    """The frames (M, T, 3, H, W) uint8 of the sequences at rows (M,)."""
    frames = mapped_array(folder / f"{stem_of_cell(perturbation, difficulty)}.npy")[rows.cpu().numpy()]
    return torch.from_numpy(np.ascontiguousarray(frames.transpose(0, 1, 4, 2, 3)))


def digest_of_arrays(folder: Path, cells: Sequence[SequenceCell], rows: Tensor) -> str:
    """The digest of some sequences of each array."""
    digest = hashlib.sha256(str(rows.tolist()).encode())
    for stem in dict.fromkeys(stem_of_cell(*cell) for cell in cells):
        array = mapped_array(folder / f"{stem}.npy")
        digest.update(f"{stem} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array[some_rows(rows).numpy()]).data)
    return digest.hexdigest()


def some_rows(rows: Tensor) -> Tensor:
    """At most KNOWN_SEQUENCES of the rows, evenly spaced."""
    return rows[torch.linspace(0, len(rows) - 1, min(KNOWN_SEQUENCES, len(rows))).round().long()].cpu()


# --- trees


def perturbation_folders(folder: Path) -> dict[str, Path]:
    """The folder of each perturbation of a tree, in the folder itself or in a group; InputError if one is there twice."""
    children = layouts.subfolders(folder)
    nested = [grandchild for child in children if child.name not in STEMS for grandchild in layouts.subfolders(child)]
    found: dict[str, Path] = {}
    for path in (*children, *nested):
        if path.name in STEMS:
            if path.name in found:
                raise InputError(f"{folder} holds {path.name} twice, as {found[path.name]} and {path}")
            found[path.name] = path
    return found


def has_videos(top: Path) -> bool:
    """Whether the first class folder in a folder holds a video."""
    return any(path.suffix.lower() == VIDEO_ENDING for kind in layouts.subfolders(top)[:1] for path in kind.iterdir())


def video_names(top: Path) -> tuple[str, ...]:
    """The videos of one perturbation as CLASS/FILE, sorted by class and name."""
    return tuple(
        f"{kind.name}/{path.name}"
        for kind in layouts.subfolders(top)
        for path in sorted(kind.iterdir())
        if path.suffix.lower() == VIDEO_ENDING and not path.name.startswith(".")
    )


def read_sequence_tree(folder: Path, names: Sequence[str] | None, difficulties: Sequence[int]) -> SequenceSet:
    """The sequences in a tree of videos; labels count the sorted class folders, and the classes take turns in the order of use.

    InputError where the videos of two perturbations are not of the same images, and where there are none.
    """
    tops = {stem: path for stem, path in perturbation_folders(folder).items() if has_videos(path)}
    cells = wanted_cells(tuple(tops), names, difficulties, folder)
    first = tops[stem_of_cell(*cells[0])]
    listed = video_names(first)
    for cell in cells[1:]:
        refuse_other_videos(first, listed, tops[stem_of_cell(*cell)])
    kinds = tuple(dict.fromkeys(name.partition("/")[0] for name in listed))
    ranks, y = ranks_and_labels(listed, kinds)
    order = sorted(range(len(listed)), key=lambda place: (ranks[place], y[place]))
    ids = torch.tensor(order)
    sample = {stem: video_frames(tops[stem] / listed[order[0]]) for stem in dict.fromkeys(stem_of_cell(*cell) for cell in cells)}
    lengths = {cell: len(sample[stem_of_cell(*cell)]) for cell in cells}
    for cell, length in lengths.items():
        refuse_short(tops[stem_of_cell(*cell)] / listed[order[0]], length, 1 if is_noise(cell[0]) else cell[1])
    shape = centre_crop(torch.from_numpy(sample[stem_of_cell(*cells[0])][0]).permute(2, 0, 1)).shape
    layout = LAYOUTS_P.get((len(kinds), len(listed), shape[1]), "") if shape[1] == shape[2] else ""
    return SequenceSet(
        name_of_sequences(folder), cells, torch.tensor(y)[ids], ids, kinds, (shape[0], shape[1], shape[2]), lengths,
        partial(frames_of_videos, tops, listed, ids, lengths, shape), partial(digest_of_videos, tops, listed, ids, cells), layout,
        layout_note(folder, layout),
    )  # fmt: skip


def refuse_other_videos(first: Path, listed: tuple[str, ...], top: Path) -> None:
    """InputError where the videos of `top` are not those of `first`: ids would not mean the same image."""
    odd = sorted(set(listed) ^ set(video_names(top)))
    if odd:
        has, lacks = (first, top) if odd[0] in set(listed) else (top, first)
        raise InputError(f"{has} has {odd[0]} and {lacks} has not ({len(odd)} files differ): all must be of the same images")


def frames_of_videos(
    tops: Mapping[str, Path], listed: Sequence[str], ids: Tensor, lengths: Mapping[SequenceCell, int], shape: torch.Size,
    perturbation: str, difficulty: int, rows: Tensor,
) -> Tensor:  # fmt: skip
    """The frames (M, T, 3, H, W) uint8 of the videos at rows (M,), cut to their centre of 224 pixels where they are larger."""
    top, t = tops[stem_of_cell(perturbation, difficulty)], lengths[perturbation, difficulty]
    x, damaged = torch.empty((len(rows), t, *shape), dtype=torch.uint8), dict[int, str]()
    for row, place in enumerate(ids[rows.cpu()].tolist()):
        path = top / listed[place]
        try:
            frames = torch.from_numpy(video_frames(path)).permute(0, 3, 1, 2)
        except DamagedImageError as error:
            damaged[row] = str(error)
            continue
        frames = torch.stack([centre_crop(frame) for frame in frames])
        if frames.shape != x.shape[1:]:
            what = f"{len(frames)} frames of {frames.shape[3]}x{frames.shape[2]}, and others have {t} of {shape[2]}x{shape[1]}"
            raise InputError(f"{path} has {what}: all videos of a perturbation must be alike")
        x[row] = frames
    if damaged:
        raise DamagedImageError("; ".join(damaged.values()), damaged)
    return x


def digest_of_videos(tops: Mapping[str, Path], listed: Sequence[str], ids: Tensor, cells: Sequence[SequenceCell], rows: Tensor) -> str:
    """The digest of the names of these videos, and of sizes and bytes of some of each perturbation."""
    names = [listed[place] for place in ids[rows.cpu()].tolist()]
    digest = hashlib.sha256("\n".join(names).encode(errors="surrogateescape"))
    for stem in dict.fromkeys(stem_of_cell(*cell) for cell in cells):
        for place in ids[some_rows(rows)].tolist():
            digest.update((tops[stem] / listed[place]).read_bytes())
    return digest.hexdigest()
