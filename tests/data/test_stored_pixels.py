"""Pixels that stay on the disk: those in memory to the bit, in any order of asking, from any number of workers; and what may go wrong."""

import os
import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from odd_pictures import ODD_PICTURES, made_picture
from PIL import Image

from robench.core.decoding import DamagedImageError, pixel_digest
from robench.core.errors import InputError, UnfinishedError
from robench.core.preprocessing import Preprocessing
from robench.data import load_images
from robench.data.catalogues import readable_images_of, sampled_places
from robench.data.decoding_workers import worker_pool
from robench.data.stored_pixels import Decoder, StoredPixels

HOW = Preprocessing(40, (32, 32))
WORKERS = [0, 1, 3]


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    """Two classes of odd pictures."""
    top = tmp_path_factory.mktemp("tree")
    for name in ("a", "b"):
        (top / name).mkdir()
        for picture in ODD_PICTURES:
            made_picture(picture, top / name)
    return top


def copied(tree, folder):
    """A tree of its own, that a test may change."""
    for path in tree.rglob("*.*"):
        (folder / path.parent.name).mkdir(exist_ok=True, parents=True)
        (folder / path.parent.name / path.name).write_bytes(path.read_bytes())
    return folder


def read(top, pixels="disk", workers=0, **more):
    return load_images(f"folder:{top}", pixels=pixels, workers=workers, **{"image_size": 32, "resize": 40, **more})


def pids(count):
    return [worker.process.pid for worker in worker_pool(count).workers if worker.is_alive]


@pytest.mark.parametrize("workers", WORKERS)
@pytest.mark.parametrize("more", [{}, {"n": 5}, {"n": 7, "shuffle": True, "seed": 3}, {"interpolation": "bicubic"}])
def test_pixels_ids_and_digests_are_those_in_memory(workers, more, tree):
    memory, disk = read(tree, "memory", **more), read(tree, "disk", workers, **more)
    assert not memory.is_stored
    assert disk.is_stored
    assert disk.ids.tolist() == memory.ids.tolist()
    assert disk.y.tolist() == memory.y.tolist()
    assert list(disk.files) == list(memory.files)
    assert disk.x.shape == memory.x.shape
    assert disk.shape == memory.shape
    assert disk.x.dtype == memory.x.dtype
    assert disk.pixel_digests(slice(None)) == [""] * len(disk)
    assert torch.equal(disk.x[:], memory.x)
    assert torch.equal(disk.pixels(slice(1, 4)), memory.pixels(slice(1, 4)))
    assert disk.pixel_digests(slice(None)) == memory.pixel_digests(slice(None)) == [pixel_digest(x.numpy()) for x in memory.x]
    assert disk.files_digest == memory.files_digest == disk.sha256


def test_an_index_file_chooses_the_same(tree, tmp_path):
    (tmp_path / "some.txt").write_text("b/odd.jpg\na/grey.jpg\n")
    memory, disk = (read(tree, place, indices=tmp_path / "some.txt") for place in ("memory", "disk"))
    assert list(disk.files) == ["b/odd.jpg", "a/grey.jpg"]
    assert torch.equal(disk.x[:], memory.x)


@pytest.mark.parametrize("workers", WORKERS)
def test_rows_are_asked_for_as_of_a_tensor(workers, tree):
    memory, disk = read(tree, "memory").x, read(tree, "disk", workers).x
    mask = torch.arange(len(memory)) % 3 == 0
    for rows in (slice(2, 9, 2), mask, torch.tensor([4, 4, 0]), torch.tensor([], dtype=torch.int64), slice(0, 0)):
        assert torch.equal(disk[rows], memory[rows])
        assert torch.equal(disk.take(rows)[:], memory[rows])
    assert torch.equal(disk[3], memory[3])
    part = disk.take(torch.tensor([7, 2, 5])).take(torch.tensor([2, 0]))
    assert torch.equal(part[:], memory[[5, 7]])
    assert part.to("cpu").shape == (2, 3, 32, 32)


def test_what_is_expected_is_decoded_ahead_and_no_more_than_the_bound(tree):
    disk = read(tree, "disk", 2).x
    disk.decoder.most, disk.decoder.unit = 6, 3
    disk.expect(slice(None))
    assert len(disk.decoder.orders) == 6
    assert len(disk.decoder.queue) == len(disk) - 6
    for first in range(0, len(disk), 3):
        disk[first : first + 3]
        assert len(disk.decoder.orders) <= 6
    assert not disk.decoder.orders
    assert not disk.decoder.queue
    disk[:]  # all at once, expected by nobody
    assert not disk.decoder.orders


def test_large_images_are_decoded_few_at_a_time():
    decoder = Decoder([("file", "x")] * 9, HOW, (2000, 2000), "large", 2)
    assert decoder.unit == 1
    assert decoder.most * 3 * 2000 * 2000 <= 2**26


def test_of_several_sizes_the_first_look_names_two_and_the_options(tree):
    with pytest.raises(InputError, match=r"images differ in size \(a/cmyk.jpg is 260x301 and .* is .*\): pass --image-size"):
        read(tree, image_size=None, resize=None)


def test_an_odd_size_among_very_many_is_named_as_it_is_decoded(tmp_path):
    (tmp_path / "a").mkdir()
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save(tmp_path / "a" / "0000.png")
    for k in range(1, 1200):
        os.link(tmp_path / "a" / "0000.png", tmp_path / "a" / f"{k:04d}.png")
    unseen = next(place for place in range(600, 1200) if place not in sampled_places(1200))
    odd = tmp_path / "a" / f"{unseen:04d}.png"
    odd.unlink()
    Image.fromarray(np.zeros((9, 8, 3), np.uint8)).save(odd)
    images = read(tmp_path, image_size=None, resize=None)
    with pytest.raises(InputError, match=rf"images differ in size \(.*{odd.name} is 8x9, and others are 8x8\): pass --image-size"):
        images.x[:]


@pytest.mark.parametrize("workers", WORKERS)
def test_a_file_that_changes_while_it_is_used_is_refused_by_name(workers, tree, tmp_path):
    images = read(copied(tree, tmp_path), "disk", workers)
    images.x[:]
    made = next(tmp_path.rglob("odd.jpg"))
    Image.open(made).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(made)
    with pytest.raises(UnfinishedError, match=rf"{made} has changed since it was read before"):
        images.x[:]


def test_what_an_earlier_part_of_a_run_has_seen_is_held_against_the_files(tree):
    images = read(tree)
    digests = read(tree, "memory").pixel_digests(slice(None))
    images.x.remember([*digests[:3], "", "0" * 16, *digests[5:]])
    images.x[:4]
    with pytest.raises(UnfinishedError, match="has changed since it was read before"):
        images.x[4]


@pytest.mark.parametrize("workers", WORKERS)
def test_damaged_files_are_all_named_with_their_rows(workers, tree, tmp_path):
    top = copied(tree, tmp_path)
    images = read(top, "disk", workers)
    for row in (2, 5):
        (top / images.files[row]).write_bytes(b"no image")
    with pytest.raises(DamagedImageError) as found:
        images.x[torch.tensor([5, 0, 2])]
    assert sorted(found.value.reasons) == [0, 2]
    assert all(str(top / images.files[row]) in found.value.reasons[place] for place, row in ((0, 5), (2, 2)))
    assert torch.equal(images.x[torch.tensor([0, 1])], read(tree, "memory").x[:2])  # the others are still to be had


@pytest.mark.parametrize("place", ["memory", "disk"])
@pytest.mark.parametrize("rows", [(0,), (4, 7), (17,)])
def test_damaged_files_are_left_out_where_that_is_wanted_and_counted(place, rows, tree, tmp_path):
    top = copied(tree, tmp_path)
    whole = read(tree, "memory")
    for row in rows:
        (top / whole.files[row]).write_bytes((top / whole.files[row]).read_bytes()[:400])
    with pytest.raises(DamagedImageError, match=Path(whole.files[rows[0]]).name):
        read(top, place).x[:]
    images = readable_images_of(read(top, place, skip_damaged=True))
    kept = [row for row in range(len(whole)) if row not in rows]
    assert images.ids.tolist() == whole.ids[kept].tolist()
    assert torch.equal(images.x[:], whole.x[kept])
    assert images.left_out == tuple(whole.files[row] for row in rows)
    assert f"{len(rows)} of the 18 chosen images cannot be read and are left out: " in images.notes[-1]


@pytest.mark.parametrize("place", ["memory", "disk"])
@pytest.mark.parametrize("row", [0, 7])
def test_an_image_too_narrow_to_be_resized_is_named_or_left_out_and_counted(place, row, tree, tmp_path):
    top = copied(tree, tmp_path)
    whole = read(tree, "memory")
    Image.new("RGB", (1, 60_000)).save(top / whole.files[row], format="PNG")
    with pytest.raises(
        DamagedImageError, match=rf"{Path(whole.files[row]).name}: an image of 60000x1 becomes 40 by 2400000 pixels"
    ) as found:
        read(top, place, resize=40).x[:]
    images = readable_images_of(read(top, place, skip_damaged=True))
    assert images.ids.tolist() == [number for number in whole.ids.tolist() if number != whole.ids[row]]
    assert "1 of the 18 chosen images cannot be read and are left out: " in images.notes[-1]
    assert Path(whole.files[row]).name in str(found.value)


@pytest.mark.parametrize("workers", WORKERS)
def test_a_damaged_file_whose_name_is_not_utf8_is_named_by_workers_too(workers, tree, tmp_path):
    top = copied(tree, tmp_path)
    odd = os.fsdecode(os.fsencode(top / "a") + b"/\xe9.jpg")
    Path(odd).write_bytes(b"no image")
    images = read(top, "disk", workers, skip_damaged=True)
    row = next(row for row, item in enumerate(images.x.decoder.items) if item[1] == odd)
    with pytest.raises(DamagedImageError) as found:
        images.x[torch.tensor([row])]
    assert found.value.reasons[0].startswith(f"{odd} cannot be read as an image")


def test_where_all_are_damaged_there_is_nothing_to_measure(tree, tmp_path):
    top = copied(tree, tmp_path)
    for path in top.rglob("*.*"):
        path.write_bytes(b"")
    for place in ("memory", "disk"):
        with pytest.raises(InputError, match=r"none of the images that were chosen can be read, as .*cmyk.jpg cannot be read as an image"):
            read(top, place, skip_damaged=True)


def test_a_worker_that_is_killed_gets_one_sentence_and_the_next_call_others(tree):
    images = read(tree, "disk", 2)
    expected = read(tree, "memory").x
    images.x[:]
    images.expect(slice(None))
    for pid in pids(2):
        os.kill(pid, signal.SIGSTOP)
    images.expect(slice(None))
    for pid in pids(2):
        os.kill(pid, signal.SIGKILL)
    with pytest.raises(
        UnfinishedError, match=r"a process that decodes images was ended by signal 9 before it was done: go on with --resume"
    ):
        images.x[:]
    assert torch.equal(images.x[:], expected)


def test_a_decoder_that_fails_is_an_error_and_no_endless_wait():
    for workers in (0, 1):
        pixels = StoredPixels(Decoder([("unheard of", "x")], HOW, (32, 32), "odd", workers), torch.arange(1))
        with pytest.raises((RuntimeError, KeyError), match="unheard of"):
            pixels[:]


def test_a_fork_has_workers_of_its_own(tree):
    images = read(tree, "disk", 1)
    expected = images.x[:]
    images.expect(slice(None))
    child = os.fork()
    if child == 0:
        os._exit(0 if torch.equal(images.x[:], expected) else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert torch.equal(images.x[:], expected)


def test_workers_end_with_the_process_that_asks(tmp_path, tree):
    import subprocess
    import sys

    code = f"""
import os, sys, time
from robench.data import load_images
from robench.data.decoding_workers import worker_pool
images = load_images("folder:{tree}", pixels="disk", workers=2, image_size=32)
images.expect(slice(None)); images.x[:]
print(*[worker.process.pid for worker in worker_pool(2).workers], flush=True)
time.sleep(60)
"""
    for how in (signal.SIGKILL, signal.SIGINT, signal.SIGTERM):
        with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as process:
            workers = [int(pid) for pid in process.stdout.readline().split()]
            assert len(workers) == 2
            assert all(map(is_running, workers))
            process.send_signal(how)
        limit = time.monotonic() + 20
        while any(map(is_running, workers)) and time.monotonic() < limit:
            time.sleep(0.05)
        assert not any(map(is_running, workers)), how


def is_running(pid):
    """Whether there is such a process, and it is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False
