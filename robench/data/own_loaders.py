"""Images of a DataLoader or a map-style data set of the user's own: asked for as they are needed, or in memory where they fit."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import (
    BatchSampler,
    ConcatDataset,
    DataLoader,
    Dataset,
    DistributedSampler,
    IterableDataset,
    RandomSampler,
    SequentialSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
    default_collate,
)

from robench.core.errors import InputError
from robench.core.inputs import as_images, as_tensor
from robench.core.preprocessing import Preprocessing
from robench.data.catalogues import MOST_IN_MEMORY, Keeping, sampled_places
from robench.data.dataset_items import ItemForm, item_label, item_tensor, raw_item
from robench.data.dataset_pixels import DatasetDecoder, WorkerWords
from robench.data.images import Choice, Images, machine_memory, refuse_too_many
from robench.data.stored_pixels import StoredPixels

LOOKED_AT_TWICE = 8  # images, to see whether the data set draws random numbers
EVERY_ONE = Choice()
WITHOUT_WORKERS = WorkerWords()
DRAWING = (RandomSampler, WeightedRandomSampler, DistributedSampler)  # which say in which order, or how often, and no choice of their own


@dataclass(frozen=True)
class OwnSet:
    """A map-style data set, what of it is wanted, and who asks it.

    Attributes:
        dataset: with __getitem__ and __len__.
        name: what sentences call it.
        indices: (N,) int64, those that its DataLoader chooses among, ascending.
        words: what its DataLoader says of worker processes.
        notes: sentences on what of the DataLoader is not used.
    """

    dataset: Any
    name: str
    indices: Tensor
    words: WorkerWords = WITHOUT_WORKERS
    notes: tuple[str, ...] = ()


def is_own_source(value: object) -> bool:
    """Whether something is a DataLoader or a data set that gives (x, y), and no arrays or images.

    Args:
        value: what the user handed over.
    """
    if isinstance(value, (DataLoader, Dataset)):
        return True
    plain = (Tensor, np.ndarray, np.generic, Images, tuple, list, str, bytes, dict, type)
    return not isinstance(value, plain) and hasattr(value, "__getitem__") and hasattr(value, "__len__")


def is_read_to_its_end(source: Any) -> bool:
    """Whether images cannot be asked for by their index: an IterableDataset, or a DataLoader that puts its batches together itself.

    Args:
        source: a DataLoader or a data set.
    """
    dataset = source.dataset if isinstance(source, DataLoader) else source
    own_batches = isinstance(source, DataLoader) and (source.collate_fn is not default_collate or source.batch_sampler is None)
    return isinstance(dataset, IterableDataset) or own_batches or not (hasattr(dataset, "__getitem__") and hasattr(dataset, "__len__"))


def images_of_dataset(
    source: Any,
    name: str = "",
    split: str = "",
    *,
    choice: Choice = EVERY_ONE,
    preprocessing: Preprocessing | None = None,
    keeping: Keeping | None = None,
    double: bool = False,
    counts_classes: bool = True,
) -> Images:
    """The images of a DataLoader over a map-style data set, or of such a data set: ids are indices of the data set.

    Args:
        source: a torch.utils.data.DataLoader, or what has __getitem__ and __len__; gives x (C, H, W), uint8 or float in [0, 1], and y.
        name: of the data set.
        split: of the data set.
        choice: which images are wanted.
        preprocessing: how they are resized and cut; None leaves them as they are.
        keeping: where their pixels are kept, and how many processes ask for them; those of the DataLoader unless it says so.
        double: whether pixels that are float64 stay it; all others are uint8 or float32.
        counts_classes: whether classes get names "0", "1", ... where the data set has none, as far as its labels go.

    Returns:
        Images in memory where they take at most 256 MiB, or that stay where they are.

    Raises:
        InputError: one sentence, for items that are no images with labels, differ in shape, are normalised, or change.

    Example:
        >>> from torch.utils.data import TensorDataset
        >>> images = images_of_dataset(TensorDataset(torch.rand(6, 3, 8, 8), torch.arange(6) % 3), "mine", keeping=Keeping("disk"))
        >>> images.is_stored, images.pixels(slice(0, 2)).shape, images.y.tolist(), images.classes
        (True, torch.Size([2, 3, 8, 8]), [0, 1, 2, 0, 1, 2], ('0', '1', '2'))
    """
    keeping = keeping or Keeping()
    own = own_set(source, name)
    own = own if keeping.workers is None else replace(own, words=replace(own.words, count=keeping.workers))
    labels, classes = known_labels(own.dataset), class_names_of(own.dataset)
    passes_all = labels is None and (choice.by_class or (counts_classes and not classes))
    first = raw_item(own.dataset, int(own.indices[0]), own.name)[0]
    form, notes = item_form(own, first, preprocessing, double)
    decoder = DatasetDecoder(own.dataset, form if labels is None else replace(form, labels=labels), own.words)
    notes = (*own.notes, *notes)
    if passes_all:
        labels = labels_by_a_pass(decoder, own.indices, len(own.dataset))
        notes = (*notes, pass_note(own))
    rows = choice.rows(own.indices, own.name, None if labels is None else labels[own.indices])
    chosen, size = own.indices[rows], len(rows) * math.prod(decoder.shape) * decoder.dtype.itemsize
    if keeping.place == "memory" or (keeping.place == "auto" and size <= MOST_IN_MEMORY):
        refuse_too_many(len(chosen), decoder.shape, decoder.dtype.itemsize, own.name)
        x: Tensor | StoredPixels
        x, y = all_items(decoder, chosen)
        as_images(x)  # bytes of 0 and 1 alone are refused
    else:
        if labels is None:
            labels = labels_by_a_pass(decoder, chosen, len(own.dataset))
            notes = (*notes, pass_note(own))
        x, y = StoredPixels(decoder, chosen), labels[chosen]
    digest = dataset_digest(decoder, chosen, y)
    if isinstance(x, Tensor):
        decoder.end_workers()
    if counts_classes and not classes:
        classes = tuple(str(k) for k in range(1 + int((y if labels is None else labels).max())))
    return Images(name, split, x, y, chosen, classes, notes=notes, files_digest=digest, preprocessing=form.preprocessing)


def own_set(source: Any, name: str) -> OwnSet:
    """The map-style data set of a DataLoader, or itself. Raises InputError for an empty one."""
    known_as = name or ("the DataLoader" if isinstance(source, DataLoader) else "the data set")
    dataset: Any = source.dataset if isinstance(source, DataLoader) else source
    n = len(dataset)
    indices, notes = loader_indices(source, n, known_as) if n and isinstance(source, DataLoader) else (torch.arange(n), ())
    if not len(indices):
        raise InputError(f"{known_as} gives no batch: its data set is empty, or its sampler draws nothing of it")
    if not isinstance(source, DataLoader):
        return OwnSet(dataset, known_as, indices)
    context = source.multiprocessing_context
    if ".py:" in known_as and source.num_workers and context is not None and context.get_start_method() != "fork":
        how = context.get_start_method()
        notes = (*notes, f"{known_as}: its worker processes are forked, as one that is started by {how} does not know the file")
        context = None
    return OwnSet(dataset, known_as, indices, WorkerWords(source.num_workers, context, source.worker_init_fn), notes)


def loader_indices(loader: DataLoader[Any], n: int, name: str) -> tuple[Tensor, tuple[str, ...]]:
    """The indices among which a DataLoader chooses, ascending, and notes on what of it is not used."""
    sampler, notes = loader.sampler, []
    drawn: Any = None
    if type(loader.batch_sampler) is not BatchSampler:
        drawn = [index for batch in islice(loader.batch_sampler or (), 4 * n) for index in batch]
    elif isinstance(sampler, SubsetRandomSampler):
        drawn = sampler.indices
    elif isinstance(sampler, DRAWING):
        notes.append(f"{name}: its {type(sampler).__name__} is not used: each image is measured once, in the order of the data set")
    elif not (isinstance(sampler, SequentialSampler) and len(sampler) == n):
        drawn = list(islice(sampler, 4 * n))
    if loader.drop_last and n % (loader.batch_size or 1):
        notes.append(f"{name}: drop_last is not used: the images of the last batch are measured as well")
    if drawn is None:
        return torch.arange(n), tuple(notes)
    indices = torch.as_tensor(list(drawn), dtype=torch.int64).unique()
    if len(indices) and not 0 <= int(indices[0]) <= int(indices[-1]) < n:
        raise InputError(f"{name}: its sampler draws index {int(indices[-1 if indices[0] >= 0 else 0])}, and its data set has {n} images")
    notes.append(
        f"{name}: of its {n} images the {len(indices)} that its sampler draws are measured, each once, in the order of the data set"
    )
    return indices, tuple(notes)


def item_form(own: OwnSet, first: Tensor, preprocessing: Preprocessing | None, double: bool) -> tuple[ItemForm, tuple[str, ...]]:
    """What all items must look like, as the first one shows it, and notes."""
    dtype = first.dtype if first.dtype == torch.uint8 or (double and first.dtype == torch.float64) else torch.float32
    notes: tuple[str, ...] = ()
    if preprocessing is not None and preprocessing.origin != "the options" and preprocessing.crop == tuple(first.shape[1:]):
        size = f"{first.shape[2]}x{first.shape[1]}"
        notes = (f"{own.name} gives images of {size}, as {preprocessing.origin} takes them: they are not resized and cut once more",)
        preprocessing = None
    if preprocessing is not None:
        preprocessing.cut_extent(*first.shape[1:])
    return ItemForm(own.name, tuple(first.shape), dtype, preprocessing), notes


def all_items(decoder: DatasetDecoder, indices: Tensor) -> tuple[Tensor, Tensor]:
    """All images at these indices (N, C, H, W) and their labels (N,), in one pass."""
    x, y = torch.empty((len(indices), *decoder.shape), dtype=decoder.dtype), torch.empty(len(indices), dtype=torch.int64)
    decoder.expect(indices.tolist())
    for rows in torch.arange(len(indices)).split(decoder.unit):
        x[rows], y[rows] = decoder.items(indices[rows].tolist())
    decoder.forget()
    return x, y


def labels_by_a_pass(decoder: DatasetDecoder, indices: Tensor, n: int) -> Tensor:
    """The labels (n,) of a whole data set, -1 but at these indices, where each image was looked at."""
    labels = torch.full((n,), -1)
    decoder.expect(indices.tolist())
    for some in indices.split(decoder.unit):
        labels[some] = decoder.items(some.tolist())[1]
    decoder.forget()
    return labels


def pass_note(own: OwnSet) -> str:
    """What is said where all images are looked at for their labels."""
    way = "a list of them (targets or labels) and the names of the classes (classes) spare that"
    return f"{own.name}: its images were all looked at once, as only that shows their labels: {way}"


def known_labels(dataset: Any) -> Tensor | None:
    """The labels (N,) of a data set as its own list says them; None where it has none of whole numbers.

    Args:
        dataset: a map-style data set; those of torch.utils.data are looked into.
    """
    if isinstance(dataset, Subset):
        labels = known_labels(dataset.dataset)
        return None if labels is None else labels[torch.as_tensor(list(dataset.indices), dtype=torch.int64)]
    if isinstance(dataset, ConcatDataset):
        parts = [known_labels(part) for part in dataset.datasets]
        known = [part for part in parts if part is not None]
        return torch.cat(known) if len(known) == len(parts) else None
    lists: list[Any] = [dataset.tensors[1]] if isinstance(dataset, TensorDataset) and len(dataset.tensors) > 1 else []
    lists += [getattr(dataset, key, None) for key in ("targets", "labels")]
    return next((labels for one in lists if (labels := label_list(one, len(dataset))) is not None), None)


def label_list(values: Any, n: int) -> Tensor | None:
    """n whole numbers from 0 as a tensor; None for anything else."""
    if not isinstance(values, (Tensor, np.ndarray, list, tuple)) or len(values) != n:
        return None
    try:
        tensor = torch.as_tensor(np.asarray(values))
    except (TypeError, ValueError, RuntimeError):
        return None
    if tensor.shape != (n,) or tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool or int(tensor.min()) < 0:
        return None
    return tensor.to(torch.int64)


def class_names_of(dataset: Any) -> tuple[str, ...]:
    """The names of the classes as a data set says them; () where it does not.

    Args:
        dataset: a map-style data set; those of torch.utils.data are looked into.
    """
    if isinstance(dataset, Subset):
        return class_names_of(dataset.dataset)
    if isinstance(dataset, ConcatDataset):
        names = {class_names_of(part) for part in dataset.datasets}
        return names.pop() if len(names) == 1 else ()
    classes = getattr(dataset, "classes", None)
    fits = isinstance(classes, (list, tuple)) and all(isinstance(one, str) for one in classes) and len({*classes}) == len(classes)
    return tuple(classes) if fits and classes else ()


def dataset_digest(decoder: DatasetDecoder, indices: Tensor, y: Tensor) -> str:
    """Whether two runs look at the same images, without looking at all: a few are looked at twice, and must not have changed.

    Args:
        decoder: asks the data set.
        indices: (N,) int64, the images.
        y: (N,) int64, their labels.

    Returns:
        Hex digest over the number, indices and labels of the images, and the pixels of at most 500 of them, evenly spaced.
    """
    digest = hashlib.sha256(f"{len(decoder.dataset)} {len(indices)} {decoder.shape} {decoder.dtype};".encode())
    for tensor in (indices, y):
        digest.update(tensor.contiguous().numpy().tobytes())
    sampled = indices[torch.tensor(sampled_places(len(indices)))].tolist()
    unknown = [place for place in sampled if place not in decoder.known]
    decoder.expect(unknown)
    for place in unknown:
        decoder.items([place])
    decoder.forget()
    for place in sampled[:LOOKED_AT_TWICE]:
        decoder.items([place])
    for place in sampled:
        digest.update(decoder.known[place].encode())
    return digest.hexdigest()


def arrays_of_loader(source: Any, name: str = "the DataLoader") -> tuple[Tensor, Tensor]:
    """All images (N, C, H, W) and labels (N,) of what can only be read to its end, in its own order.

    Args:
        source: a DataLoader, or an IterableDataset.
        name: what sentences call it.

    Raises:
        InputError: where it gives no pairs, or nothing, or images of several shapes, or more than half of the memory.
    """
    parts: list[tuple[Tensor, Tensor]] = []
    size, most = 0, machine_memory() / 2
    for batch in batches_of(source, name):
        if not isinstance(batch, (list, tuple)) or len(batch) < 2:
            raise InputError(f"{name} gives batches of type {type(batch).__name__} and no pairs: its data set must give (x, y)")
        parts.append((as_images(batch[0]), as_tensor(batch[1], "y")))
        size += parts[-1][0].numel() * parts[-1][0].element_size()
        if size > most:
            raise InputError(f"{name} can only be read to its end, and does not fit into half of the memory: {MAP_STYLE}")
    if not parts:
        raise InputError(f"{name} gives no batch: its data set is empty, or all of it is dropped as an incomplete one")
    if len(shapes := {tuple(images.shape[1:]) for images, _ in parts}) > 1:
        raise InputError(f"{name} gives images of several shapes, {' and '.join(map(str, sorted(shapes)))}: bring them to one")
    return torch.cat([images for images, _ in parts]), torch.cat([labels for _, labels in parts])


MAP_STYLE = "hand over a data set with __getitem__ and __len__, and no collate_fn, so that images are asked for as they are needed"


def batches_of(source: Any, name: str) -> Iterator[Any]:
    """The batches of a DataLoader; of an IterableDataset its items as batches of one."""
    if isinstance(source, DataLoader):
        yield from source
        return
    for index, item in enumerate(source):
        if not isinstance(item, (tuple, list)) or len(item) < 2:
            raise InputError(f"{name} gives items of type {type(item).__name__} and no pairs: it must give (x, y)")
        yield item_tensor(item[0], index, name)[None], torch.tensor([item_label(item[1], index, name)])


def read_note(name: str) -> str:
    """What is said of a source that was read to its end.

    Args:
        name: what sentences call it.
    """
    return f"{name} was read to its end and is held in memory, in its own order, as its images cannot be asked for one by one"
