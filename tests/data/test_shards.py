"""Shards of webdataset: what its writers write is read as it reads it itself; patterns, labels, names of classes; and what is refused."""

import gc
import io
import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest
from containers import NAMES, png_bytes, sample_members, small_pixels, write_shard
from hypothesis import given
from hypothesis import strategies as st
from needed import needed

from robench.core.contained_images import slice_bytes
from robench.core.decoding import DamagedImageError, decoded_item
from robench.core.errors import InputError
from robench.data import shards
from robench.data.shard_files import expanded_braces
from robench.data.shards import key_and_ending, shard_catalogue

PIXELS = small_pixels(12)


def read(place, split="test"):
    return shard_catalogue(str(place), split, Path("data"))


def refused(place, words, **how):
    with pytest.raises(InputError, match=words) as caught:
        read(place, **how)
    assert str(caught.value).count("\n") == 0


def pixels_of(catalogue):
    return [decoded_item(item).transpose(1, 2, 0) for item in catalogue.items]


@pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)  # files that webdataset leaves open
def test_samples_of_webdatasets_writers_are_those_that_webdataset_reads(tmp_path):
    webdataset = needed("webdataset")
    with webdataset.ShardWriter(str(tmp_path / "toy-val-%06d.tar"), maxcount=5, verbose=0) as writer:
        for k, image in enumerate(PIXELS):
            key = ("n01/ILSVRC_{}", "a.b/{}", "{}", "x/" + "y" * 120 + "/{}")[k % 4].format(k)
            writer.write(
                {"__key__": key, "JPEG" if k % 2 else "png": png_bytes(image), "cls": k % 3, "json": {"label": 7}, "pyd": {"p": 1}}
            )
    with webdataset.TarWriter(str(tmp_path / "toy-val-000009.tar")) as writer:
        writer.write({"__key__": "last", "png": png_bytes(PIXELS[0]), "cls": 2})
    names = sorted(map(str, tmp_path.glob("*.tar")))
    theirs = list(webdataset.WebDataset(names, shardshuffle=False, select_files=lambda name: not name.endswith(".pyd")))
    gc.collect()
    for place in (tmp_path, tmp_path / "*.tar", f"{tmp_path}/toy-val-{{000000,000001,000002,000009}}.tar"):
        found = read(place)
        assert len(found) == len(theirs) == 13
        assert found.y.tolist() == [int(each["cls"]) for each in theirs]
        for item, file, each in zip(found.items, found.files, theirs, strict=True):
            assert item[1] == each["__url__"]
            assert key_and_ending(file)[0] == each["__key__"]
            assert slice_bytes(*item[1:]) == each.get("jpeg", each.get("png"))
    assert "members that are no images, labels or texts are not read: 12 .pyd" in " ".join(found.notes)


@given(st.text("ab./_-é", min_size=1, max_size=20))
def test_keys_are_those_of_webdataset(name):
    tariterators = needed("webdataset.tariterators")
    key, ending = key_and_ending(name)
    theirs = tariterators.base_plus_ext(name)
    assert (key, ending) == (("", "") if theirs[0] is None else (theirs[0], theirs[1].lower())) or name.startswith("__")


@pytest.mark.parametrize("pattern", ["x-{000..012}.tar", "{a,b}/{1..3}.tar", "{00..10}-of-10", "x{a..c}{1,2}", "plain.tar"])
def test_braces_are_those_of_webdataset(pattern):
    shardlists = needed("webdataset.shardlists")
    assert list(expanded_braces(pattern, "wds:x")) == shardlists.expand_urls(pattern)


@pytest.mark.parametrize("form", [tarfile.USTAR_FORMAT, tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_every_form_of_tar_is_read(tmp_path, form):
    members = [(f"{'long' * 30}/{name}", content) for name, content in sample_members(PIXELS)]
    write_shard(tmp_path / "a.tar", members, format=form)
    found = read(tmp_path / "a.tar")
    assert all(np.array_equal(one, other) for one, other in zip(pixels_of(found), PIXELS, strict=True))
    assert list(found.files) == [name for name, _ in members if name.endswith(".png")]


def test_shards_are_taken_in_the_order_of_their_names_and_ids_count_through(tmp_path):
    for k in (2, 0, 1):
        write_shard(tmp_path / f"s-{k}.tar", sample_members(PIXELS[4 * k : 4 * k + 4], 0))
    found = read(f"{tmp_path}/s-{{2,0,1}}.tar")
    assert found.ids.tolist() == list(range(12))
    assert all(np.array_equal(one, other) for one, other in zip(pixels_of(found), PIXELS, strict=True))
    assert list(found.files)[4] == "s-1/part/0000.png"  # each counts from 0
    assert (found.name, found.split) == ("wds:s", "all")


def test_splits_are_those_of_the_names_of_shards(tmp_path):
    write_shard(tmp_path / "imagenet1k-train-00.tar", sample_members(PIXELS[:8]))
    write_shard(tmp_path / "imagenet1k-validation-00.tar", sample_members(PIXELS[8:]))
    assert (len(read(tmp_path)), len(read(tmp_path, "train"))) == (4, 8)
    assert read(tmp_path).split == "test"
    refused(tmp_path / "imagenet1k-validation-*.tar", "has no split 'train': its files say val", split="train")


@pytest.mark.parametrize(
    ("members", "option", "labels", "classes"),
    [
        ([(".json", b'{"label": 2, "cls": 0}'), (".json", b'{"label": 0}')], "", [2, 0], "0 1 2"),
        ([(".json", b'{"width": 2, "class": 1}'), (".json", b'{"class": 0}')], "", [1, 0], "0 1"),
        ([(".json", b'{"label": 2, "fine": 0}'), (".json", b'{"label": 0, "fine": 1}')], ",label=fine", [0, 1], "0 1"),
        ([(".txt", b" dog\n"), (".txt", b"cat")], "", [1, 0], "cat dog"),
        ([(".cls", b"1\n"), (".cls", b"0")], "", [1, 0], "0 1"),
        ([(".cls", b"n02"), (".cls", b"n01")], "", [1, 0], "n01 n02"),
        ([(".json", b'{"label": "dog"}'), (".json", b'{"label": "0"}')], "", None, "some labels are numbers, such as 0, and others text"),
        ([(".json", b'{"width": 2}')] * 2, "", None, "has none of the keys label, .* in its .json: add ,label=KEY"),
        ([(".json", b'{"label": [1]}')] * 2, "", None, r"label in its \.json is \[1\]: a whole number or the name of a class is expected"),
        ([(".json", b'{"label": -1}')] * 2, "", None, r"label in its \.json is -1"),
        ([(".json", b"[" * 100_000)] * 2, "", None, "nested too deeply"),
        ([(".json", b"[]")] * 2, "", None, "its .json holds list"),
        ([(".cls", b"\xff")] * 2, "", None, "no text in UTF-8"),
        ([(".cls", b"")] * 2, "", None, "'' is no label"),
        ([(".cls", b"1"), (".txt", b"1")], "", None, r"the sample 1 has no \.cls with its label: it has \.png, \.txt"),
        ([(".pth", b"1")] * 2, "", None, "no .cls, .json or .txt stands beside its image"),
        ([(".cls", b"999999999")] * 2, "", None, "labels go up to 999999999, and 100,000 classes are the most"),
    ],
)
def test_labels_come_from_cls_json_or_txt(tmp_path, members, option, labels, classes):
    both = [each for k, (end, content) in enumerate(members) for each in ((f"{k}.png", png_bytes(PIXELS[k])), (f"{k}{end}", content))]
    write_shard(tmp_path / "a.tar", both)
    if labels is None:
        refused(f"{tmp_path}/a.tar{option}", classes)
        return
    found = read(f"{tmp_path}/a.tar{option}")
    assert found.y.tolist() == labels
    assert " ".join(found.classes) == classes


def test_names_of_classes_lie_beside_the_shards_or_are_named(tmp_path):
    write_shard(tmp_path / "a.tar", sample_members(PIXELS))
    (tmp_path / "classes.txt").write_text("\n".join(NAMES) + "\n")
    assert read(tmp_path).classes == NAMES
    assert "names of classes in classes.txt" in read(tmp_path).notes[0]
    (tmp_path / "mine").write_text("x\ny\nz\nw\n")
    assert read(f"{tmp_path},classes={tmp_path}/mine").classes == read(f"{tmp_path},classes=mine").classes == tuple("xyzw")
    (tmp_path / "mine").write_text("x\ny\n")
    refused(f"{tmp_path},classes={tmp_path}/mine", "labels go up to 2, and there are names for 2 classes")
    (tmp_path / "mine").write_text("x\ny\nx\n")
    refused(f"{tmp_path},classes={tmp_path}/mine", "names a class twice")
    refused(f"{tmp_path},classes=nowhere", "there is no file nowhere here or in")


# What is refused


@pytest.mark.parametrize(
    ("pattern", "words"),
    [
        ("pipe:cat x.tar", "would run a command, and robench runs none"),
        ("pipe:touch canary|", "would run a command"),
        ("http://host/x-{000..009}.tar", "is no path of this machine"),
        ("s3://bucket/x.tar", "is no path of this machine"),
        ("gs://bucket/x.tar", "is no path of this machine"),
        ("hf://datasets/x.tar", "is no path of this machine"),
        ("file:/etc/x.tar", "is no path of this machine"),
        ("a.tar::http://b.tar", "joins sources by ::"),
        ("nowhere-{000..009}.tar", "not found here or in data"),
        ("nowhere/*.tar", "not found here or in data"),
        ("x-{0..999999999999}.tar", "stand for more than 100,000 shards"),
        ("x-{1..99}{1..99}{1..99}.tar", "stand for more than 100,000 shards"),
        ("x-{1..2.tar", "has a brace without its other one"),
        ("x" * 5000 + ".tar", "not found here or in data"),
    ],
)
def test_patterns_that_are_no_local_files_are_one_sentence(tmp_path, monkeypatch, pattern, words):
    needed("webdataset")
    monkeypatch.chdir(tmp_path)
    refused(pattern, words)
    assert not list(tmp_path.iterdir())


def test_a_missing_shard_and_a_folder_without_any(tmp_path):
    write_shard(tmp_path / "s-0.tar", sample_members(PIXELS))
    refused(f"{tmp_path}/s-{{0..2}}.tar", r"2 of 3 shards are not there, such as .*s-1\.tar")
    (tmp_path / "s-0.tar").rename(tmp_path / "s-0.tar.gz")
    refused(tmp_path, r"holds no file \*\.tar: its tar files are packed, as s-0\.tar\.gz")


def test_braces_without_the_package_say_what_to_install(tmp_path, monkeypatch):
    import sys

    write_shard(tmp_path / "s-0.tar", sample_members(PIXELS))
    monkeypatch.setitem(sys.modules, "braceexpand", None)
    refused(f"{tmp_path}/s-{{0..0}}.tar", r"pip install braceexpand, or use \* instead")
    assert len(read(f"{tmp_path}/s-*.tar")) == 12


@pytest.mark.parametrize("packing", ["gz", "bz2", "xz"])
def test_packed_shards_are_to_be_unpacked(tmp_path, packing):
    with tarfile.open(tmp_path / "a.tar", f"w:{packing}") as archive:
        archive.addfile(tarfile.TarInfo("x"))
    refused(tmp_path / "a.tar", "is packed with .*: unpack it to a plain .tar")


def test_a_shard_that_was_cut_anywhere_is_named(tmp_path):
    write_shard(tmp_path / "a.tar", sample_members(PIXELS[:2]))
    whole = (tmp_path / "a.tar").read_bytes()
    with tarfile.open(tmp_path / "a.tar") as archive:
        end = max(member.offset_data + member.size for member in archive)
    for length in {0, 1, 511, 512, 513, 1024, *range(0, end, 300)}:
        (tmp_path / "a.tar").write_bytes(whole[:length])
        refused(
            tmp_path / "a.tar",
            r"a\.tar (cannot be read as a tar file|has no end mark: it was cut short|has a damaged header|goes on behind its end mark)",
        )


def test_a_damaged_header_in_the_middle_is_named(tmp_path):
    write_shard(tmp_path / "a.tar", sample_members(PIXELS[:3]))
    with tarfile.open(tmp_path / "a.tar") as archive:
        place = archive.getmembers()[3].offset
    data = bytearray((tmp_path / "a.tar").read_bytes())
    data[place + 3] ^= 1
    (tmp_path / "a.tar").write_bytes(data)
    refused(tmp_path / "a.tar", rf"has a damaged header \(at byte {place:,}\)")


PNG = png_bytes(PIXELS[0])


@pytest.mark.parametrize(
    ("members", "words"),
    [
        ([("1.cls", b"0")], r"the sample 1 has no image: it has \.cls"),
        ([("1.png", PNG), ("1.seg.png", PNG), ("1.cls", b"0")], r"2 images, \.png and \.seg\.png: add ,image=png"),
        ([("1.png", PNG), ("1.cls", b"0"), ("2.png", PNG), ("2.cls", b"0"), ("1.txt", b"0")], "the members of 1 do not stand together"),
        ([("1.png", PNG), ("1.PNG", PNG), ("1.cls", b"0")], r"has two members \.png"),
        ([("1.png", PNG), ("1.cls", b"9" * 2**21)], "has 2,097,152 bytes: 1,048,576 are the most"),
        ([("1.pyd", b"0")], "holds no samples"),
        ([("README", b"0")], "holds no samples"),
    ],
)
def test_odd_samples_are_one_sentence(tmp_path, members, words):
    write_shard(tmp_path / "a.tar", members)
    refused(tmp_path / "a.tar", words)


def test_one_of_several_images_can_be_asked_for(tmp_path):
    write_shard(tmp_path / "a.tar", [("1.png", PNG), ("1.seg.png", png_bytes(PIXELS[1])), ("1.cls", b"0")])
    assert np.array_equal(pixels_of(read(f"{tmp_path}/a.tar,image=seg.png"))[0], PIXELS[1])
    refused(f"{tmp_path}/a.tar,image=jpg", r"has no image \.jpg")


def test_a_damaged_image_is_named_by_its_place(tmp_path):
    write_shard(tmp_path / "a.tar", [("1.png", b"no image"), ("1.cls", b"0")])
    words = r"a\.tar \(bytes 512 to 520\) cannot be read as an image \(it has no format that is known\): repair or remove it"
    with pytest.raises(DamagedImageError, match=words):
        pixels_of(read(tmp_path / "a.tar"))


def test_names_that_lead_elsewhere_are_names_and_nothing_is_unpacked(tmp_path):
    names = ("/etc/passwd", "../../up", "a/../b")
    write_shard(tmp_path / "s" / "a.tar", [each for name in names for each in ((f"{name}.png", PNG), (f"{name}.cls", b"0"))])
    assert list(read(tmp_path / "s").files) == [f"{name}.png" for name in names]
    assert [path.name for path in tmp_path.rglob("*")] == ["s", "a.tar"]


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE])
def test_links_are_not_followed(tmp_path, kind):
    (tmp_path / "secret.png").write_bytes(PNG)
    with tarfile.open(tmp_path / "a.tar", "w") as archive:
        info = tarfile.TarInfo("1.png")
        info.type, info.linkname = kind, str(tmp_path / "secret.png")
        archive.addfile(info)
        info = tarfile.TarInfo("1.cls")
        info.size = 1
        archive.addfile(info, io.BytesIO(b"0"))
    refused(tmp_path / "a.tar", r"1\.png is a link, and none is followed")


def test_a_member_with_holes_is_refused(tmp_path):
    records = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "1.png", "GNU.sparse.realsize": str(2**40)}
    with tarfile.open(tmp_path / "a.tar", "w", format=tarfile.PAX_FORMAT) as archive:
        info = tarfile.TarInfo("1.png")
        content = b"1\n0\n512\n".ljust(512, b"\0") + b"\0" * 512
        info.size, info.pax_headers = len(content), records
        archive.addfile(info, io.BytesIO(content))
    refused(tmp_path / "a.tar", "is stored with holes")


def test_more_members_than_a_shard_has_and_images_without_end(tmp_path, monkeypatch):
    write_shard(tmp_path / "a.tar", sample_members(PIXELS))
    monkeypatch.setattr(shards, "MOST_MEMBERS", 20)
    refused(tmp_path / "a.tar", "has more than 20 members")
    monkeypatch.setattr(shards, "MOST_MEMBERS", 24)
    assert len(read(tmp_path / "a.tar")) == 12
    monkeypatch.setattr(shards, "MOST_IMAGE_BYTES", 100)
    refused(tmp_path / "a.tar", "100 are the most")


class Canary:
    """What makes a file where it is unpickled."""

    def __reduce__(self):
        return open, ("canary", "w")


def test_pickles_beside_the_images_are_never_loaded(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    endings = ("pyd", "pickle", "pth", "pkl", "npz", "ten", "mp", "cbor")
    write_shard(tmp_path / "a.tar", [("1.png", PNG), ("1.cls", b"0"), *((f"1.{end}", pickle.dumps(Canary())) for end in endings)])
    found = read(tmp_path / "a.tar")
    assert np.array_equal(pixels_of(found)[0], PIXELS[0])
    assert "1 .pickle" in " ".join(found.notes)
    assert not Path("canary").exists()


def test_headers_are_read_and_data_passed_over(tmp_path):
    members = [(f"{k}.{end}", b"0" * (2**20 if end == "png" else 1)) for k in range(20) for end in ("png", "cls")]
    write_shard(tmp_path / "a.tar", members)
    before = read_characters()
    assert len(read(tmp_path / "a.tar")) == 20
    assert read_characters() - before < 2**20  # of 20 MiB


def read_characters():
    """Bytes that this process has read so far."""
    return int(Path("/proc/self/io").read_text().split()[1])


def test_a_shard_with_a_hole_and_two_that_were_joined_are_named(tmp_path):
    write_shard(tmp_path / "a.tar", sample_members(PIXELS[:3]))
    whole = (tmp_path / "a.tar").read_bytes()
    with tarfile.open(tmp_path / "a.tar") as archive:
        place = archive.getmembers()[2].offset
    (tmp_path / "a.tar").write_bytes(whole[:place] + bytes(1024) + whole[place + 1024 :])
    refused(tmp_path / "a.tar", "goes on behind its end mark|has a damaged header")
    (tmp_path / "a.tar").write_bytes(whole + whole)
    refused(
        tmp_path / "a.tar", rf"goes on behind its end mark \(at byte {len(whole.rstrip(bytes(1))) // 512 * 512 + 512:,}\): a part of it"
    )
    (tmp_path / "a.tar").write_bytes(whole + bytes(4096))
    assert len(read(tmp_path / "a.tar")) == 3
