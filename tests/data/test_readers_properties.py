"""Properties of what is read from files: whatever bytes lie there, images come out, or one sentence that refuses them."""

import io
import zipfile

import numpy as np
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays, scalar_dtypes
from properties import TEXTS, new_folder

from robench.core.errors import InputError
from robench.data import Images, indices_in, load_images
from robench.data.images import Choice, quotas, rows_of_ids, stratified_mask

KEYS = ("x", "y", "x_test", "y_test", "images", "labels", "index", "classes", "z")
IDS = st.lists(st.integers(0, 999_999_999), min_size=1, max_size=12, unique=True)
CHANGES = st.lists(st.tuples(st.floats(0, 1), st.integers(1, 255)), max_size=4)  # where, as a share of the file, and the bits that flip
ANY_ARRAY = scalar_dtypes().flatmap(lambda kind: arrays(kind, array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)))


def npz_bytes(pack=np.savez, **arrays_by_key):
    file = io.BytesIO()
    pack(file, **arrays_by_key)
    return file.getvalue()


def changed(content, changes):
    """The bytes with some of them another."""
    letters = bytearray(content)
    for share, bits in changes:
        letters[min(int(share * len(letters)), len(letters) - 1)] ^= bits
    return bytes(letters)


def images_in(content, folder, **options):
    """The images of an npz file with this content, None where they are refused."""
    path = folder / "set.npz"
    path.write_bytes(content)
    try:
        return load_images(f"npz:{path}", **options)
    except InputError:
        return None


def check_images(images):
    """What every set of images keeps to."""
    assert isinstance(images, Images)
    assert images.x.shape[:1] == images.y.shape == images.ids.shape
    assert images.x.dtype in (torch.uint8, torch.float32)
    assert ((images.y >= 0) & (images.y < len(images.classes))).all()


@given(st.binary(max_size=300) | st.binary(max_size=60).map(lambda end: b"PK\x03\x04" + end))
def test_bytes_at_random_are_refused_as_images(content):
    with new_folder() as folder:
        assert images_in(content, folder) is None


@pytest.mark.parametrize("pack", [np.savez, np.savez_compressed])
@given(changes=CHANGES, kept=st.floats(0, 1), n=st.none() | st.integers(1, 4))
def test_a_damaged_npz_gives_images_or_is_refused(pack, changes, kept, n):
    x, y = np.arange(4 * 3 * 4 * 4, dtype=np.uint8).reshape(4, 3, 4, 4), np.arange(4)
    content = npz_bytes(pack, x=x, y=y, index=np.arange(4) + 10)
    damaged = changed(content, changes)[: round(kept * len(content))]
    with new_folder() as folder:
        images = images_in(damaged, folder, n=n)
        if images is not None:
            check_images(images)
        if damaged == content:
            assert images is not None
            assert images.ids.tolist() == [10, 11, 12, 13][:n]


@given(st.dictionaries(st.sampled_from(KEYS), ANY_ARRAY, max_size=4))
def test_arrays_of_any_shape_and_type_give_images_or_are_refused(arrays_by_key):
    with new_folder() as folder:
        images = images_in(npz_bytes(**arrays_by_key), folder)
        if images is not None:
            check_images(images)


@given(st.dictionaries(st.sampled_from(["x.npy", "y.npy", "../y.npy", "x", "y/"]), st.binary(max_size=200), max_size=3))
def test_an_archive_of_anything_is_refused(members):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    with new_folder() as folder:
        assert images_in(file.getvalue(), folder) is None


@given(TEXTS.filter(lambda name: name != "shapes"))
@example("/")
@example(".")
@example("~nobody-of-this-name/set")
def test_any_name_of_a_data_set_is_loaded_or_refused(name):
    with new_folder() as folder:
        for words in (name, f"npz:{name}", f"folder:none{name}", f"npz:{'a' * 300}"):
            with pytest.raises(InputError):
                load_images(words, data_dir=folder)


@given(IDS, st.sampled_from(["\n", "\r\n", "\n\n", " \n"]), st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]))
def test_indices_are_read_as_they_were_written(ids, end, encoding):
    with new_folder() as folder:
        (folder / "ids.txt").write_bytes(end.join(map(str, ids)).encode(encoding))
        assert indices_in(folder / "ids.txt") == tuple(ids)


@given(
    st.binary(max_size=40)
    | TEXTS.map(str.encode)
    | st.lists(st.sampled_from([b"1", b"\n", b" ", b"\xff\xfe", b"-", b"0" * 99])).map(b"".join)
)
def test_an_index_file_of_anything_gives_different_whole_numbers_or_is_refused(content):
    with new_folder() as folder:
        (folder / "ids.txt").write_bytes(content)
        try:
            ids = indices_in(folder / "ids.txt")
        except InputError:
            return
        assert len(set(ids)) == len(ids) > 0
        assert all(0 <= number <= 999_999_999 for number in ids)


@given(IDS, st.data())
def test_ids_are_found_where_they_stand(ids, data):
    wanted = tuple(data.draw(st.lists(st.sampled_from(ids), unique=True)))
    there = torch.tensor(ids)
    assert there[rows_of_ids(there, wanted, "set").long()].tolist() == list(wanted)


@given(IDS, st.integers(0, 2**32 - 1), st.randoms(use_true_random=False), st.data())
def test_which_images_are_drawn_does_not_depend_on_their_order(ids, seed, random, data):
    n, by_class = data.draw(st.integers(1, len(ids))), data.draw(st.booleans())
    choice = Choice(n, shuffle=not by_class, seed=seed, by_class=by_class)
    labels = {number: number % 3 for number in ids}
    sets = []
    for order in (ids, random.sample(ids, len(ids))):
        there, y = torch.tensor(order), torch.tensor([labels[number] for number in order])
        sets.append(there[choice.rows(there, "set", y)].tolist())
    assert len(sets[0]) == n
    assert sorted(sets[0]) == sorted(sets[1])
    assert by_class or sets[0] == sets[1]


@given(st.lists(st.integers(0, 50), min_size=1, max_size=6).filter(any), st.data())
def test_quotas_add_up_and_are_within_one_of_the_exact_share(sizes, data):
    n = data.draw(st.integers(0, sum(sizes)))
    counts = quotas(torch.tensor(sizes), n)
    assert sum(counts) == n
    assert all(0 <= count <= size and abs(count - size * n / sum(sizes)) < 1 for count, size in zip(counts, sizes, strict=True))


@given(IDS, st.integers(0, 2**32 - 1), st.data())
def test_a_stratified_choice_takes_the_quota_of_each_class(ids, seed, data):
    y = torch.tensor(ids) % 3
    n = data.draw(st.integers(0, len(ids)))
    mask = stratified_mask(y, torch.tensor(ids), n, seed, "test")
    assert [int((y[mask] == label).sum()) for label in range(len(y.bincount()))] == quotas(y.bincount(), n)
