"""DataLoaders and data sets of the user's own: what comes out, from memory or as it is needed, and what is refused."""

import os
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from owned import Fatal, Photos, Stream
from PIL import Image
from torch.utils.data import (
    ConcatDataset,
    DataLoader,
    Dataset,
    RandomSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)
from torchvision.datasets import FakeData, ImageFolder
from torchvision.transforms import Compose, Normalize, RandomHorizontalFlip, ToTensor

import robench
from robench.core.errors import InputError, UnfinishedError
from robench.core.preprocessing import Preprocessing
from robench.data.catalogues import Keeping
from robench.data.images import Choice
from robench.data.own_loaders import arrays_of_loader, images_of_dataset

pytestmark = pytest.mark.filterwarnings("ignore:Exception in thread QueueFeederThread")  # of torch, as it ends workers

DISK = Keeping("disk")
DISK_WITH_WORKERS = Keeping("disk", workers=2)


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """A folder of pictures as ImageFolder reads it, two classes of three."""
    folder = tmp_path_factory.mktemp("tree")
    source = np.random.default_rng(0)
    for name in ("cat", "dog"):
        (folder / name).mkdir()
        for number in range(3):
            Image.fromarray(source.integers(0, 255, (8, 9, 3), np.uint8)).save(folder / name / f"{number}.png")
    return folder


def sets_of_users(tree):
    """Data sets of several kinds, by a name."""
    photos = Photos(20)
    return {
        "own class": photos,
        "bytes": Photos(20, dtype=torch.uint8),
        "without lists": Photos(20, lists=False),
        "tensors": TensorDataset(photos.x, photos.y),
        "subset": Subset(photos, [7, 3, 11]),
        "several": ConcatDataset([photos, Subset(photos, [1, 2])]),
        "torchvision's": FakeData(12, (3, 16, 16), 4, ToTensor()),
        "folder": ImageFolder(tree, ToTensor()),
    }


@pytest.mark.parametrize("keeping", [DISK, DISK_WITH_WORKERS, Keeping("memory", workers=2)], ids=["disk", "workers", "memory and workers"])
@pytest.mark.parametrize("name", ["own class", "bytes", "without lists", "tensors", "subset", "several", "torchvision's", "folder"])
def test_each_kind_of_data_set_gives_the_same_images_wherever_they_are_kept(name, keeping, tree):
    dataset = sets_of_users(tree)[name]
    expected = [dataset[index] for index in range(len(dataset))]
    images, held = (images_of_dataset(dataset, "mine", "test", keeping=one) for one in (keeping, Keeping("memory")))
    assert images.is_stored == (keeping.place == "disk")
    images.expect(slice(None))
    assert torch.equal(images.x[:], torch.stack([x for x, _ in expected]))
    assert torch.equal(images.x[:], held.x)
    assert images.y.tolist() == held.y.tolist() == [int(y) for _, y in expected]
    assert images.ids.tolist() == [*range(len(dataset))]
    assert (images.classes, images.files_digest) == (held.classes, held.files_digest)
    assert images.pixel_digests(slice(None)) == held.pixel_digests(slice(None))


def test_names_of_classes_come_from_the_data_set_else_from_its_labels(tree):
    folder, photos = ImageFolder(tree, ToTensor()), Photos(20)
    for one in (folder, Subset(folder, [4, 0]), ConcatDataset([folder, folder])):
        assert images_of_dataset(one, "mine").classes == ("cat", "dog")
    assert images_of_dataset(photos, "mine").classes == tuple(map(str, range(1 + max(photos.targets))))
    assert images_of_dataset(photos, "mine", choice=Choice(1), keeping=DISK).classes == images_of_dataset(photos, "mine").classes


def test_labels_are_known_from_the_lists_of_a_data_set_without_looking_at_its_images():
    with_lists, without = Photos(2000, side=4), Photos(2000, side=4, lists=False)
    images_of_dataset(with_lists, "mine", keeping=DISK)
    assert len({*with_lists.asked}) == 500  # the digest
    images = images_of_dataset(without, "mine", keeping=DISK)
    assert len({*without.asked}) == 2000
    assert "its images were all looked at once" in images.notes[0]
    first = Photos(2000, side=4)
    chosen = images_of_dataset(first, "mine", choice=Choice(7), keeping=DISK)
    assert {*first.asked} == {*range(7)}
    assert len(chosen) == 7


def test_only_what_is_asked_for_is_kept_and_workers_look_ahead_by_a_bounded_number():
    images = images_of_dataset(Photos(3000, side=64), "mine", keeping=DISK_WITH_WORKERS)
    decoder = images.x.decoder
    decoder.most = 64
    images.expect(slice(None))
    for rows in torch.arange(3000).flip(0).split(100)[:3]:
        images.x[rows]  # against the order in which they were expected
        assert len(decoder.ready) <= 64 + decoder.unit
    for rows in torch.arange(300).split(50):
        images.x[rows]
        assert len(decoder.ready) <= 64 + decoder.unit


@pytest.mark.parametrize("workers", [0, 2])
def test_images_asked_for_out_of_turn_are_the_same(workers):
    photos = Photos(100, side=8)
    images = images_of_dataset(photos, "mine", keeping=Keeping("disk", workers=workers))
    images.expect(torch.arange(0, 100, 2))
    for rows in (torch.tensor([0, 2]), torch.tensor([99, 1]), torch.tensor([98, 4, 4]), torch.arange(100) == 6, torch.arange(0, 100, 2)):
        assert torch.equal(images.x[rows], photos.x[rows])
    images.expect(torch.tensor([5, 6]))
    assert torch.equal(images.take(torch.tensor([5, 6])).x[1:], photos.x[6:7])


@given(st.lists(st.integers(0, 29), min_size=1, max_size=60), st.lists(st.integers(0, 29), max_size=60), st.integers(1, 9))
def test_any_order_that_was_expected_and_any_that_is_asked_for_give_the_images(asked, expected, size):
    images = images_of_dataset(PHOTOS, "mine", keeping=DISK_WITH_WORKERS) if not KEPT else KEPT[0]
    KEPT[:] = [images]
    images.expect(torch.tensor(expected, dtype=torch.int64))
    for rows in torch.tensor(asked).split(size):
        assert torch.equal(images.x[rows], PHOTOS.x[rows])


PHOTOS, KEPT = Photos(30, side=4), []


@pytest.mark.parametrize(
    ("loader", "ids", "note"),
    [
        (lambda data: DataLoader(data, 7), [*range(20)], ""),
        (lambda data: DataLoader(data, 5, shuffle=True), [*range(20)], "RandomSampler is not used"),
        (lambda data: DataLoader(data, 7, drop_last=True), [*range(20)], "drop_last is not used"),
        (lambda data: DataLoader(data, 7, sampler=SubsetRandomSampler([9, 3])), [3, 9], "of its 20 images the 2 that its sampler draws"),
        (lambda data: DataLoader(data, 7, sampler=[5, 4, 5]), [4, 5], "each once"),
        (lambda data: DataLoader(data, batch_sampler=[[1, 2], [8]]), [1, 2, 8], "the 3 that its sampler draws"),
        (lambda data: DataLoader(data, 7, sampler=WeightedRandomSampler([1.0] * 20, 5)), [*range(20)], "WeightedRandomSampler is not used"),
        (lambda data: DataLoader(data, 7, sampler=RandomSampler(data, replacement=True)), [*range(20)], "RandomSampler is not used"),
    ],
)
def test_ids_are_indices_of_the_data_set_whatever_the_order_of_the_loader(loader, ids, note):
    photos = Photos(20)
    images = images_of_dataset(loader(photos), "mine")
    assert images.ids.tolist() == ids
    assert torch.equal(images.x, photos.x[ids])
    assert images.y.tolist() == photos.y[ids].tolist()
    assert note in " ".join(images.notes)
    assert bool(images.notes) == bool(note)


def test_processes_are_those_of_the_loader_unless_the_user_says_so():
    loader = DataLoader(Photos(10), 5, num_workers=2)
    assert images_of_dataset(loader, "mine", keeping=DISK).x.decoder.workers == 2
    assert images_of_dataset(loader, "mine", keeping=Keeping("disk", workers=0)).x.decoder.workers == 0
    assert images_of_dataset(Photos(10), "mine", keeping=DISK).x.decoder.workers == 0


@pytest.mark.parametrize("workers", [0, 2])
def test_images_are_resized_and_cut_as_tensors_are_one_by_one(workers):
    photos, how = Photos(9, side=20), Preprocessing(12, (10, 10), origin="the options")
    images = images_of_dataset(photos, "mine", preprocessing=how, keeping=Keeping("disk", workers=workers))
    images.expect(slice(None))
    expected = robench.data.images.resized_crops(photos.x, how)
    assert images.shape == (3, 10, 10)
    assert torch.equal(images.x[:], expected)
    assert torch.equal(images_of_dataset(photos, "mine", preprocessing=how).x, expected)


def test_images_of_the_size_that_a_model_takes_are_not_resized_once_more():
    how = Preprocessing(24, (20, 20), origin="tv/resnet18 DEFAULT")
    images = images_of_dataset(Photos(4, side=20), "mine", preprocessing=how)
    assert torch.equal(images.x, Photos(4, side=20).x)
    assert "as tv/resnet18 DEFAULT takes them: they are not resized and cut once more" in images.notes[0]
    assert images_of_dataset(Photos(4, side=20), "mine", preprocessing=replace(how, origin="the options")).shape == (3, 20, 20)


def test_the_digest_says_whether_the_images_are_the_same():
    def digest(dataset, **how):
        return images_of_dataset(dataset, "mine", keeping=DISK, **how).files_digest

    photos, brighter, other = Photos(20), Photos(20, change=lambda i, x: x / 2 if i == 3 else x), Photos(20)
    other.y[5] = other.targets[5] = (other.targets[5] + 1) % 10
    fewer = digest(photos, choice=Choice(19))
    resized = digest(photos, preprocessing=Preprocessing(16, None))
    assert len({digest(photos), digest(brighter), digest(other), fewer, resized}) == 5
    assert digest(photos) == digest(DataLoader(photos, 3, shuffle=True, num_workers=2))


class Numbered(Dataset):
    """Four images, of which `of` makes each item by its index."""

    def __init__(self, of):
        self.of = of

    def __len__(self):
        return 4

    def __getitem__(self, index):
        return self.of(index)


X = torch.full((3, 8, 8), 0.5)
REFUSED = {
    "normalised": (lambda i: ((X - 0.9) / 0.2, 0), r"of image 0 these span -2 to -2: they look normalised: take Normalize out"),
    "normalised later": (lambda i: (X - i, 0), "of image 1 these span -0.5 to -0.5: they look normalised"),
    "bytes as floats": (lambda i: (255 * X, 0), "span 127.5 to 127.5: divide by 255"),
    "a little outside": (lambda i: (X + torch.linspace(-0.55, 0.55, 8), 0), r"end the transforms of the data set with a clamp to \[0, 1\]"),
    "no number": (lambda i: (X / 0 if i == 3 else X, 0), "of image 3 192 of these are NaN or infinite"),
    "sizes": (lambda i: (X[:, : 8 - i // 2], 0), r"image 2 has shape \(3, 7, 8\), and others have \(3, 8, 8\)"),
    "last": (lambda i: (X.permute(1, 2, 0), 0), r"looks like \(H, W, C\): give x.permute\(2, 0, 1\)"),
    "grey": (lambda i: (X[0], 0), r"must be \(C, H, W\): grey images need a channel, x\[None\]"),
    "batch": (lambda i: (X[None], 0), r"has shape \(1, 3, 8, 8\), and must be \(C, H, W\)"),
    "picture": (lambda i: (Image.new("RGB", (8, 8)), 0), r"picture of Pillow's and no tensor: add torchvision.transforms.ToTensor\(\)"),
    "list": (lambda i: ([[1]], 0), "image 0 is of type list"),
    "integers": (lambda i: (X.long(), 0), "holds int64 numbers"),
    "two kinds": (lambda i: (X if i else X.to(torch.uint8), 0), "image 1 holds float32 numbers, and others do not"),
    "dict": (lambda i: {"image": X, "label": 0}, r"gives batches of type dict and no pairs: its data set must give \(x, y\)"),
    "alone": (lambda i: X, "of type Tensor and no pairs"),
    "one-hot": (lambda i: (X, torch.eye(4)[i]), r"holds 4 numbers, and must be one whole number: for one-hot labels give y.argmax\(\)"),
    "soft": (lambda i: (X, 0.5), r"the label of image 0 is 0.5 \(float\), and must be a whole number"),
    "word": (lambda i: (X, "cat"), r"the label of image 0 is 'cat' \(str\)"),
    "none": (lambda i: (X, None), r"the label of image 0 is None"),
    "flag": (lambda i: (X, True), "must be a whole number"),
    "in a tensor": (lambda i: (X, torch.tensor([1])), "holds 1 numbers, and must be one whole number"),
    "negative": (lambda i: (X, -1), "labels are whole numbers from 0, and that of image 0 is -1"),
    "random": (lambda i: (X * torch.rand(()), 0), "draws random numbers: take random crops, flips and the like out of its transforms"),
}  # fmt: skip


@pytest.mark.parametrize("keeping", [Keeping(), DISK, DISK_WITH_WORKERS], ids=["memory", "disk", "workers"])
@pytest.mark.parametrize("fault", REFUSED)
def test_what_are_no_images_is_refused_in_one_sentence(fault, keeping):
    of, sentence = REFUSED[fault]
    with pytest.raises(InputError, match=sentence) as error:
        images_of_dataset(Numbered(of), "mine", keeping=keeping)
    assert "\n" not in str(error.value)


def test_transforms_of_torchvision_that_do_not_belong_there_are_refused(tree):
    normalised = Compose([ToTensor(), Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])])
    for transform, sentence in (
        (None, r"add torchvision.transforms.ToTensor\(\)"),
        (normalised, "take Normalize out"),
        (Compose([ToTensor(), RandomHorizontalFlip()]), "draws random numbers"),
    ):
        with pytest.raises(InputError, match=sentence):
            images_of_dataset(ImageFolder(tree, transform), "mine")


def test_a_list_of_labels_that_the_items_contradict_is_refused():
    photos = Photos(10)
    photos.targets[4] += 1
    with pytest.raises(InputError, match=r"image 4 comes with the label \d, and the data set's own list of labels .* says \d"):
        images_of_dataset(photos, "mine", keeping=DISK)


def test_a_list_that_is_none_of_labels_is_not_taken_for_one():
    for values in ([0.5] * 10, ["a"] * 10, [0] * 9, [[0]] * 10, {"a": 1}, [[1], [2, 3]] * 5):
        photos = Photos(10, lists=False)
        photos.targets = values
        assert images_of_dataset(photos, "mine", keeping=DISK).y.tolist() == photos.y.tolist()


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_of_the_data_sets_own_is_raised_with_its_own_lines_and_the_index(workers):
    def breaks(index, x):
        if index == 700:
            raise KeyError("lost")
        return x

    images = images_of_dataset(Photos(1001, change=breaks, side=4), "mine", keeping=Keeping("disk", workers=workers))
    images.expect(slice(None))
    assert len(images.x[:600]) == 600
    with pytest.raises(KeyError, match="lost") as error:
        images.x[600:800]
    assert error.value.__notes__ == ["robench asked mine for image 700."]
    assert any(entry.name == "breaks" for entry in error.traceback)


def test_a_normalised_image_that_comes_late_is_refused_as_it_comes():
    images = images_of_dataset(Photos(1001, change=lambda i, x: x - 2 if i == 700 else x, side=4), "mine", keeping=DISK)
    assert len(images.x[:700]) == 700
    with pytest.raises(InputError, match=r"of image 700 these span .*they look normalised"):
        images.x[700:800]


def test_an_image_that_is_another_one_later_is_refused_and_the_reason_is_tried_out():
    photos = Photos(10)
    images = images_of_dataset(photos, "mine", keeping=DISK)
    photos.x[5] /= 2
    with pytest.raises(InputError, match="mine: image 5 has changed since it was read before"):
        images.x[:]
    photos.change = lambda index, x: x * torch.rand(())
    with pytest.raises(InputError, match="image 6 is another one each time it is asked for, as the data set draws random numbers"):
        images.x[6:7]


def test_a_worker_that_is_killed_gives_one_sentence_and_the_next_pass_begins_anew(tmp_path):
    photos = Photos(1001, change=Fatal(700, tmp_path / "killed", os.getpid()), side=4)
    images = images_of_dataset(photos, "mine", keeping=DISK_WITH_WORKERS)
    images.expect(slice(None))
    with pytest.raises(UnfinishedError, match=r"a worker process of mine ended before it was done .*--resume") as error:
        images.x[:]
    assert "\n" not in str(error.value)
    images.expect(slice(None))
    assert torch.equal(images.x[:], photos.x)


def test_what_can_only_be_read_to_its_end_is_read_in_its_own_order(monkeypatch):
    loader = DataLoader(Photos(12), 5, collate_fn=lambda items: (torch.stack([x for x, _ in items]), torch.tensor([y for _, y in items])))
    for source in (loader, Stream(12), DataLoader(Stream(12), 5)):
        x, y = arrays_of_loader(source)
        assert torch.equal(x, Photos(12).x)
        assert y.tolist() == Photos(12).y.tolist()
    monkeypatch.setattr("robench.data.own_loaders.machine_memory", lambda: 2 * 3 * 32 * 32 * 4 * 10)
    with pytest.raises(
        InputError, match="can only be read to its end, and does not fit into half of the memory: hand over a data set with"
    ):
        arrays_of_loader(Stream(12))


def test_an_empty_set_or_sampler_and_an_index_that_is_not_there_are_refused():
    for source in (Photos(0), DataLoader(Photos(0)), DataLoader(Photos(5), sampler=SubsetRandomSampler([]))):
        with pytest.raises(InputError, match="gives no batch"):
            images_of_dataset(source)
    with pytest.raises(InputError, match="draws index 9, and its data set has 5 images"):
        images_of_dataset(DataLoader(Photos(5), sampler=[0, 9]))
