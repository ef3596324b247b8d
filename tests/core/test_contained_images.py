"""Images inside larger files: pieces of tar files, cells of parquet files, in any order and within bounds of memory."""

import os
import random

import numpy as np
import pytest
from containers import png_bytes, small_pixels, write_parquet
from needed import needed

from robench.core import contained_images
from robench.core.contained_images import cell_bytes, row_group_images, slice_bytes
from robench.core.errors import InputError


def test_a_piece_of_a_file_and_one_that_it_does_not_hold(tmp_path):
    file = tmp_path / "x.tar"
    file.write_bytes(b"0123456789")
    assert slice_bytes(str(file), 3, 4) == b"3456"
    with pytest.raises(InputError, match=r"ends at byte 10, inside an image that goes on to 12"):
        slice_bytes(str(file), 8, 4)
    with pytest.raises(InputError, match="268,435,456 are the most"):
        slice_bytes(str(file), 0, 2**40)
    with pytest.raises(InputError, match="No such file"):
        slice_bytes(str(tmp_path / "gone.tar"), 0, 1)


@pytest.mark.parametrize("compression", ["none", "snappy", "zstd", "gzip"])
@pytest.mark.parametrize("dictionary", [True, False])
def test_cells_are_read_in_any_order(tmp_path, compression, dictionary):
    needed("pyarrow")
    rows = [png_bytes(image) for image in small_pixels(23)]
    write_parquet(tmp_path / "x.parquet", rows, row_group_size=10, compression=compression, use_dictionary=dictionary)
    order = [*range(23), *random.Random(0).sample(range(23), 23)]
    assert [cell_bytes(str(tmp_path / "x.parquet"), "image", k // 10, k % 10) for k in order] == [rows[k] for k in order]


def test_what_is_kept_of_a_row_group_is_bounded(tmp_path, monkeypatch):
    needed("pyarrow")
    rows = [os.urandom(1000) for _ in range(50)]
    write_parquet(tmp_path / "x.parquet", rows)
    monkeypatch.setattr(contained_images, "KEPT_BYTES", 5000)
    path = str(tmp_path / "x.parquet")
    for k in (0, 49, 45, 44, 3, 2, 30):
        assert cell_bytes(path, "image", 0, k) == rows[k]
        kept = row_group_images(contained_images.open_parquet(path, reader="images"), path, "image", 0)
        assert len(kept.kept) <= 5
        assert kept.kept_bytes == 1000 * len(kept.kept)


def test_cells_without_bytes_and_rows_that_are_not_there(tmp_path):
    needed("pyarrow")
    (tmp_path / "secret.png").write_bytes(b"outside")
    write_parquet(tmp_path / "x.parquet", [b"a", None, b"c"], paths=[None, str(tmp_path / "secret.png"), None])
    path = str(tmp_path / "x.parquet")
    with pytest.raises(InputError, match="row 1 of row group 0 has no image: its image holds no bytes, and no path is followed"):
        cell_bytes(path, "image", 0, 1)
    assert cell_bytes(path, "image", 0, 2) == b"c"
    with pytest.raises(InputError, match="ends at row 3"):
        cell_bytes(path, "image", 0, 3)


def test_a_file_that_was_written_again_is_opened_again(tmp_path):
    needed("pyarrow")
    for content in (b"old", b"newer", b"the newest"):
        write_parquet(tmp_path / "x.parquet", [content])
        assert cell_bytes(str(tmp_path / "x.parquet"), "image", 0, 0) == content


def test_labels_that_are_read_between_images_move_none(tmp_path):
    needed("pyarrow")
    rows = [f"image {k}".encode() for k in range(300)]
    write_parquet(tmp_path / "x.parquet", rows, paths=[str(k) for k in range(300)])
    path = str(tmp_path / "x.parquet")
    for k in range(300):
        assert cell_bytes(path, "image", 0, k) == rows[k]
        if k % 50 == 0:
            assert len(list(contained_images.open_parquet(path).iter_batches(64, columns=["image.path"]))) == 5
            assert contained_images.open_parquet(path, reader="images").reader.set_batch_size(7) is None
            assert contained_images.open_parquet(path).read(columns=["label"]).num_rows == 300


def test_damage_is_one_sentence(tmp_path):
    needed("pyarrow")
    rows = [np.random.default_rng(k).bytes(3000) for k in range(40)]
    write_parquet(tmp_path / "x.parquet", rows, compression="zstd", use_dictionary=False, write_page_checksum=True)
    whole = (tmp_path / "x.parquet").read_bytes()
    place = whole.index(rows[30][:100])
    (tmp_path / "x.parquet").write_bytes(whole[:place] + b"\0" * 50 + whole[place + 50 :])
    with pytest.raises(InputError, match=r"x\.parquet cannot be read as a parquet file \(.*: it is damaged or was cut short"):
        cell_bytes(str(tmp_path / "x.parquet"), "image", 0, 30)
    (tmp_path / "x.parquet").write_bytes(whole[:-20])
    with pytest.raises(InputError, match="cannot be read as a parquet file"):
        cell_bytes(str(tmp_path / "x.parquet"), "image", 0, 0)
