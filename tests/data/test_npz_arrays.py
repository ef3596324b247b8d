"""npz files: usual keys, headers that lie, large files of which few rows are wanted; index files; files of CIFAR that are not CIFAR's."""

import codecs
import io
import resource
import time
import zipfile

import numpy as np
import pytest
import torch

from robench.core.errors import InputError
from robench.data import load_images
from robench.data import npz_arrays as archives
from robench.data.files import key_meaning

RNG = np.random.default_rng(0)
X, Y = RNG.integers(0, 256, (12, 6, 6, 3), dtype=np.uint8), np.arange(12) % 4


def saved(path, **arrays):
    np.savez_compressed(path, **arrays)
    return f"npz:{path}"


# --- keys


@pytest.mark.parametrize(
    ("images", "labels", "split"),
    [
        ("images", "labels", "all"), ("X", "y", "all"), ("data", "target", "all"), ("imgs", "targets", "all"), ("x", "label", "all"),
        ("test_images", "test_labels", "test"), ("X_test", "Y_test", "test"), ("images-test", "labels-test", "test"),
        ("xtest", "ytest", "test"), ("test_data", "test_labels", "test"), ("x_testing", "y_testing", "test"),
    ],
)  # fmt: skip
def test_the_usual_keys_are_understood_and_named(tmp_path, images, labels, split):
    loaded = load_images(saved(tmp_path / "toy.npz", **{images: X, labels: Y}))
    assert torch.equal(loaded.x, torch.from_numpy(X.transpose(0, 3, 1, 2).copy()))
    assert (loaded.y.tolist(), loaded.split) == (Y.tolist(), split)
    assert loaded.notes == (f"npz:toy: {images} was taken for the images, {labels} for the labels",)


def test_medmnist_with_its_labels_in_a_column_loads_split_by_split(tmp_path):
    arrays = {f"{split}_images": X[:n] for split, n in (("train", 12), ("val", 6), ("test", 3))}
    arrays |= {f"{split}_labels": Y[:n, None] for split, n in (("train", 12), ("val", 6), ("test", 3))}
    name = saved(tmp_path / "med.npz", **arrays)
    assert [len(load_images(name, split)) for split in ("train", "val", "test")] == [12, 6, 3]
    assert load_images(name).classes == ("0", "1", "2", "3")
    less = saved(tmp_path / "less.npz", **{key: value for key, value in arrays.items() if "test" not in key})
    assert "npz:less has no split 'test': val stands in for it" in load_images(less).notes


def test_our_own_keys_need_no_note_and_other_arrays_do_not_disturb(tmp_path):
    name = saved(tmp_path / "toy.npz", x_test=X, y_test=Y, weights=RNG.random(3), x_adv=X, note=np.array([{}], object))
    assert load_images(name).notes == ()
    assert key_meaning("x_adv") == ("x", "adv")
    assert key_meaning("predictions") is None


@pytest.mark.parametrize(
    ("arrays", "sentence"),
    [
        ({"arr_0": X, "arr_1": Y}, r"it holds arr_0 uint8 \(12, 6, 6, 3\), arr_1 int64 \(12,\), and needs x_test and y_test, or x and y"),
        ({"images": X, "x": X, "y": Y}, "images and x could each be the images"),
        ({"x": X, "y": Y, "labels": Y}, "y and labels could each be the labels"),
        ({"x": X, "y": Y + 200_000}, "labels up to 200003"),
        ({"x": np.tile(X, 2)[..., :4], "y": Y}, "no axis could be 1 channel .grey. or 3 .RGB.: of RGBA keep the first 3"),
        ({"x": np.tile(X, 2)[..., :4].transpose(0, 3, 1, 2), "y": Y}, "no axis could be 1 channel .*: of RGBA keep the first 3"),
        ({"x": X[..., :2], "y": Y}, "of grey with transparency the first"),
        ({"x": (X > 99).astype(np.uint8), "y": Y}, "bytes of 0 and 1 alone, which is black: multiply them by 255"),
    ],
)  # fmt: skip
def test_what_is_there_is_told_where_it_cannot_be_used(tmp_path, arrays, sentence):
    with pytest.raises(InputError, match=sentence):
        load_images(saved(tmp_path / "toy.npz", **arrays))


def test_the_images_of_scikit_learns_digits_are_taken_and_not_their_rows(tmp_path):
    grey = RNG.random((5, 8, 8))
    assert load_images(saved(tmp_path / "d.npz", data=grey.reshape(5, 64), images=grey, target=np.arange(5))).shape == (1, 8, 8)


def test_black_images_and_floats_of_0_and_1_are_images(tmp_path):
    assert load_images(saved(tmp_path / "black.npz", x=np.zeros_like(X), y=Y)).x.max() == 0
    assert load_images(saved(tmp_path / "binary.npz", x=(X > 99).astype(np.float32), y=Y)).x.max() == 1


# --- headers and rows


def forged(path, shape, data=b"\0" * 64):
    """An npz file whose x declares a shape that its bytes do not fill."""
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(head, {"descr": "|u1", "fortran_order": False, "shape": shape})
    labels = io.BytesIO()
    np.save(labels, np.zeros(shape[0] if shape[0] < 100 else 12, np.int64))
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("x.npy", head.getvalue() + data)
        archive.writestr("y.npy", labels.getvalue())
    return f"npz:{path}"


def test_a_header_that_declares_more_than_the_file_holds_is_refused_before_memory_is_taken(tmp_path):
    with pytest.raises(InputError, match=r"x declares uint8 of shape \(12, 100000, 100000, 1\), 120,000,000,000 bytes;"):
        load_images(forged(tmp_path / "lie.npz", (12, 10**5, 10**5, 1)))
    with pytest.raises(InputError, match="100000000000 images, 12 labels"):
        load_images(forged(tmp_path / "many.npz", (10**11, 1, 1)))


def test_of_a_large_file_only_the_rows_that_are_wanted_are_unpacked(tmp_path):
    path = tmp_path / "large.npz"
    n, side = 4000, 160  # 307 MB, of which next to nothing is stored
    labels = io.BytesIO()
    np.save(labels, np.arange(n) % 10)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        with archive.open("x_test.npy", "w", force_zip64=True) as handle:
            np.lib.format.write_array_header_1_0(handle, {"descr": "|u1", "fortran_order": False, "shape": (n, side, side, 3)})
            for k in range(n):
                handle.write(bytes([k % 251]) * (side * side * 3))
        archive.writestr("y_test.npy", labels.getvalue())
    before, begin = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.process_time()
    few = load_images(f"npz:{path}", n=5)
    seconds, grown = time.process_time() - begin, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert few.x[:, 0, 0, 0].tolist() == [0, 1, 2, 3, 4]
    assert grown < 100_000  # kilobytes
    begin = time.process_time()
    archives.read_member_rows(archives.members(path, "x", bool)["x_test"], np.array([n - 1, 7]), "x")
    assert seconds < (time.process_time() - begin) / 2  # the last row needs the whole


@pytest.mark.parametrize("order", ["C", "F"])
@pytest.mark.parametrize("compressed", [False, True])
def test_rows_come_in_the_order_that_is_asked_for(tmp_path, order, compressed):
    x = np.asarray(RNG.integers(0, 256, (30, 5, 4, 3), dtype=np.uint8), order=order)
    (np.savez_compressed if compressed else np.savez)(tmp_path / "toy.npz", x=x, y=np.arange(30) % 3)
    (tmp_path / "few.txt").write_text("29\n3\n17\n0\n4")
    loaded = load_images(f"npz:{tmp_path / 'toy.npz'}", indices=tmp_path / "few.txt")
    assert torch.equal(loaded.x, torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))[[29, 3, 17, 0, 4]])


def test_a_damaged_array_of_usual_size_is_told_even_where_few_rows_are_wanted(tmp_path):
    path = tmp_path / "toy.npz"
    np.savez(path, x=X, y=Y)
    content = bytearray(path.read_bytes())
    content[content.index(X[11].tobytes()[:16]) + 3] ^= 255
    path.write_bytes(bytes(content))
    with pytest.raises(InputError, match="cannot be read"):
        load_images(f"npz:{path}", n=2)


# --- names and index files


def test_an_npz_file_is_found_by_the_name_that_a_checkpoint_keeps(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    saved(tmp_path / "c2.npz", x=X, y=Y)
    (tmp_path / "c2").mkdir()
    assert len(load_images("npz:c2")) == 12
    assert len(load_images("npz:c2", data_dir=tmp_path)) == 12
    with pytest.raises(InputError, match="npz:c3 not found here or in data: name it with --data npz:PATH"):
        load_images("npz:c3")


@pytest.mark.parametrize(
    "raw", [codecs.BOM_UTF8 + b"3\r\n1\r\n", "3\r\n1\r\n".encode("utf-16"), codecs.BOM_UTF16_BE + "3\n1\n".encode("utf-16-be")]
)
def test_an_index_file_may_begin_with_a_byte_order_mark(tmp_path, raw):
    (tmp_path / "few.txt").write_bytes(raw)
    assert load_images("shapes", indices=tmp_path / "few.txt").ids.tolist() == [3, 1]


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("3\n99999999999999999999\n", "line 2 of the index file .* is 99999999999999999999: indices above 999,999,999 are not supported"),
        ("-1\n", "line 1 of the index file .* is '-1': each line must be one index"),
        (b"\xff\x00\x01".decode("latin-1"), "one index"),
    ],
)
def test_a_line_of_an_index_file_that_cannot_be_is_told_truly(tmp_path, text, sentence):
    (tmp_path / "few.txt").write_text(text)
    with pytest.raises(InputError, match=sentence):
        load_images("shapes", indices=tmp_path / "few.txt")


def test_leading_zeros_of_an_index_count_for_nothing(tmp_path):
    (tmp_path / "few.txt").write_text("0000000000003\n000\n")
    assert load_images("shapes", indices=tmp_path / "few.txt").ids.tolist() == [3, 0]


def test_a_folder_or_a_missing_file_as_an_index_file_gets_a_sentence(tmp_path):
    with pytest.raises(InputError, match="is a folder: name a text file with one index or file name a line"):
        load_images("shapes", indices=tmp_path)
    with pytest.raises(InputError, match=r"there is no index file .*few\.txt"):
        load_images("shapes", indices=tmp_path / "few.txt")
