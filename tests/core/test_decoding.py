"""One image from its bytes: RGB pixels whatever the file holds, to the bit those of Pillow, and a sentence for what cannot be read."""

import io
import json
import struct
import subprocess
import sys
import zlib
from hashlib import sha256

import numpy as np
import pytest
from odd_pictures import ODD_PICTURES, made_picture
from PIL import Image

from robench.core.decoder import ANSWER_HEAD, HAS_FAILED, HAS_PIXELS, IS_DAMAGED, serve_requests
from robench.core.decoding import DamagedImageError, decoded_item, edge_bytes, item_extent, pixel_digest
from robench.core.errors import InputError
from robench.core.preprocessing import Preprocessing

RAMP = np.arange(5 * 7 * 3, dtype=np.uint8).reshape(5, 7, 3)
USUAL = Preprocessing(256, (224, 224))


def saved(path, image, **how):
    image.save(path, **how)
    return ("file", str(path))


def header_only_png(path, width, height):
    """A PNG whose header says a size, with pixels for none of it."""
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)), (b"IDAT", zlib.compress(b"\0")), (b"IEND", b"")]
    body = b"".join(struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks)
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    return ("file", str(path))


def test_a_lossless_file_gives_its_pixels_channels_first(tmp_path):
    item = saved(tmp_path / "a.png", Image.fromarray(RAMP))
    assert np.array_equal(decoded_item(item), RAMP.transpose(2, 0, 1))
    assert item_extent(item) == (5, 7)


@pytest.mark.parametrize("mode", ["L", "1", "P", "LA", "RGBA", "PA"])
def test_other_modes_become_rgb_and_transparency_is_dropped(mode, tmp_path):
    image = Image.fromarray(RAMP).convert("L" if mode in ("L", "1", "LA", "PA") else "RGB").convert(mode)
    if mode in ("LA", "RGBA"):
        image.putalpha(0)
    if mode == "PA":
        image = image.convert("RGBA")
    found = decoded_item(saved(tmp_path / "a.png", image))
    assert found.shape == (3, 5, 7)
    assert found.dtype == np.uint8
    wanted = image.convert("RGB") if mode != "RGBA" else Image.fromarray(RAMP)
    assert np.array_equal(found, np.asarray(wanted).transpose(2, 0, 1))


def test_a_transparent_colour_of_a_palette_keeps_its_colour(tmp_path):
    image = Image.fromarray(RAMP).quantize(16)
    colours = np.asarray(image.convert("RGB"))
    item = saved(tmp_path / "a.png", image, transparency=0)
    assert np.array_equal(decoded_item(item), colours.transpose(2, 0, 1))


def test_exif_orientation_is_not_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    plain, turned = Image.fromarray(RAMP), tmp_path / "turned.jpg"
    plain.save(turned, quality=95, exif=exif)
    assert decoded_item(("file", str(turned))).shape == (3, 5, 7)


def test_cmyk_is_what_pillow_makes_of_it(tmp_path):
    path = made_picture("cmyk.jpg", tmp_path)
    with Image.open(path) as image:
        assert image.mode == "CMYK"
        wanted = np.asarray(image.convert("RGB")).transpose(2, 0, 1)
    assert np.array_equal(decoded_item(("file", str(path))), wanted)


@pytest.mark.parametrize(
    ("name", "image"),
    [
        ("grey16.png", Image.fromarray(np.arange(35, dtype=np.uint16).reshape(5, 7) * 1000)),
        ("grey16.tif", Image.fromarray(np.arange(35, dtype=np.uint16).reshape(5, 7) * 1000)),
        ("whole.tif", Image.fromarray(np.arange(35, dtype=np.int32).reshape(5, 7))),
        ("float.tif", Image.fromarray(np.linspace(0, 1, 35, dtype=np.float32).reshape(5, 7))),
    ],
)
def test_more_than_eight_bits_a_channel_are_refused_by_name(name, image, tmp_path):
    item = saved(tmp_path / name, image)
    with pytest.raises(DamagedImageError, match=f"{name} has more than 8 bits a channel"):
        decoded_item(item)


def test_sixteen_bits_of_colour_which_pillow_cuts_unasked_are_refused(tmp_path):
    rows = b"".join(b"\0" + bytes(6 * 4) for _ in range(4))
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", 4, 4, 16, 2, 0, 0, 0)), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    body = b"".join(struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data)) for name, data in chunks)
    (tmp_path / "deep.png").write_bytes(b"\x89PNG\r\n\x1a\n" + body)
    with pytest.raises(DamagedImageError, match="more than 8 bits"):
        decoded_item(("file", str(tmp_path / "deep.png")))


@pytest.mark.parametrize("content", [b"", b"no image", b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n"])
def test_what_is_no_image_is_named(content, tmp_path):
    (tmp_path / "bad.jpg").write_bytes(content)
    for read in (decoded_item, item_extent):
        with pytest.raises(DamagedImageError, match=r"bad.jpg cannot be read as an image .*: repair or remove it"):
            read(("file", str(tmp_path / "bad.jpg")))


def test_a_file_cut_short_shows_when_it_is_decoded(tmp_path):
    path = made_picture("odd.jpg", tmp_path)
    path.write_bytes(path.read_bytes()[:3000])
    assert item_extent(("file", str(path))) == (257, 391)
    with pytest.raises(DamagedImageError, match=r"odd.jpg cannot be read as an image"):
        decoded_item(("file", str(path)), USUAL)


def test_a_file_that_is_gone_and_a_folder_are_named(tmp_path):
    for item in (("file", str(tmp_path / "gone.jpg")), ("file", str(tmp_path))):
        with pytest.raises(DamagedImageError, match=str(tmp_path)):
            decoded_item(item)
        with pytest.raises(DamagedImageError, match="cannot be read"):
            edge_bytes(item, 4)


def test_a_few_bytes_that_claim_a_huge_image_get_one_sentence(tmp_path):
    item = header_only_png(tmp_path / "huge.png", 50_000, 50_000)
    for read in (decoded_item, item_extent):
        with pytest.raises(
            DamagedImageError, match=r"huge.png says that it has more than 178,956,970 pixels, and at most 89,478,485 are read"
        ):
            read(item)
        with pytest.raises(DamagedImageError, match=r"large.png says that it has 10000 x 9000 pixels: 89,478,485 are the most"):
            read(header_only_png(tmp_path / "large.png", 10_000, 9_000))


@pytest.mark.parametrize("read", [decoded_item, item_extent])
def test_a_thin_image_that_would_become_huge_counts_as_damaged_before_it_is_decoded(read, tmp_path):
    item = header_only_png(tmp_path / "thin.png", 1_000_000, 1)
    with pytest.raises(DamagedImageError, match=r"thin.png: an image of 1x1000000 becomes 256 by 256000000 pixels: lower --resize"):
        read(item, USUAL)


def test_what_is_of_the_options_and_not_of_the_file_is_no_damage(tmp_path):
    item = saved(tmp_path / "small.png", Image.fromarray(RAMP))
    with pytest.raises(InputError, match=r"small.png: an image of 5x7 pixels does not fill a crop of 224x224") as found:
        decoded_item(item, Preprocessing(None, (224, 224)))
    assert not isinstance(found.value, DamagedImageError)


def test_a_name_with_a_control_character_is_told_and_its_damage_known(tmp_path):
    (tmp_path / "a\rb.png").write_bytes(b"no image")
    with pytest.raises(DamagedImageError, match=r"a\?b.png cannot be read as an image"):
        decoded_item(("file", str(tmp_path / "a\rb.png")))


@pytest.mark.parametrize("name", ODD_PICTURES)
@pytest.mark.parametrize("how", [USUAL, Preprocessing(232, (224, 224), "bicubic"), Preprocessing((96, 64), None, "lanczos")])
def test_resizing_and_cutting_are_those_of_torchvision_to_the_bit(name, how, tmp_path):
    from torchvision.transforms import v2
    from torchvision.transforms.functional import InterpolationMode

    path = made_picture(name, tmp_path)
    steps = [v2.Resize(how.resize, InterpolationMode[how.interpolation.upper()])] + ([v2.CenterCrop(how.crop)] if how.crop else [])
    with Image.open(path) as image:
        wanted = np.asarray(v2.Compose(steps)(image.convert("RGB"))).transpose(2, 0, 1)
    assert np.array_equal(decoded_item(("file", str(path)), how), wanted)


def test_an_image_smaller_than_the_crop_is_refused_naming_the_option(tmp_path):
    item = saved(tmp_path / "small.png", Image.fromarray(RAMP))
    with pytest.raises(InputError, match=r"small.png: an image of 5x7 pixels does not fill a crop of 8x8: pass --resize"):
        decoded_item(item, Preprocessing(None, (8, 8)))


def test_a_slice_of_a_larger_file_is_the_file_itself(tmp_path):
    path = made_picture("odd.jpg", tmp_path)
    content = path.read_bytes()
    (tmp_path / "large").write_bytes(b"x" * 700 + content + b"y" * 900)
    item = ("slice", str(tmp_path / "large"), 700, len(content))
    assert np.array_equal(decoded_item(item, USUAL), decoded_item(("file", str(path)), USUAL))
    assert edge_bytes(item, 64) == edge_bytes(("file", str(path)), 64) == (len(content), content[:64], content[-64:])
    with pytest.raises(DamagedImageError, match="large"):
        decoded_item(("slice", str(tmp_path / "large"), 700 + len(content), len(content)))


def test_a_digest_is_that_of_type_shape_and_pixels():
    pixels = RAMP.transpose(2, 0, 1)
    wanted = sha256(b"uint8 (3, 5, 7);" + pixels.tobytes()).hexdigest()[:16]
    assert pixel_digest(pixels) == pixel_digest(np.ascontiguousarray(pixels)) == wanted
    assert pixel_digest(pixels[:, ::-1]) != wanted


# --- the worker process


def answers(*requests):
    stream = io.BytesIO()
    serve_requests(io.BytesIO("".join(f"{json.dumps(one)}\n" for one in requests).encode()), stream)
    return split_answers(stream.getvalue())


def split_answers(content):
    found = []
    while content:
        kind, height, width, size, digest = ANSWER_HEAD.unpack(content[: ANSWER_HEAD.size])
        body, content = content[ANSWER_HEAD.size : ANSWER_HEAD.size + size], content[ANSWER_HEAD.size + size :]
        found.append((kind, height, width, digest.rstrip(b"\0").decode(), body))
    return found


def test_a_worker_answers_each_item_and_goes_on_after_a_bad_one(tmp_path):
    good = ("file", str(made_picture("odd.jpg", tmp_path)))
    (tmp_path / "bad.jpg").write_bytes(b"no image")
    items = [good, ("file", str(tmp_path / "bad.jpg")), ("unheard of", "x"), good]
    first, second, third, fourth = answers({"items": items, "preprocessing": USUAL.plain()})
    pixels = decoded_item(good, USUAL)
    assert first == fourth == (HAS_PIXELS, 224, 224, pixel_digest(pixels), pixels.tobytes())
    assert second[0] == IS_DAMAGED
    assert b"bad.jpg cannot be read as an image" in second[4]
    assert third[0] == HAS_FAILED
    assert third[4].startswith(b"KeyError")


def test_a_worker_imports_neither_torch_nor_pyarrow_and_ends_with_its_input(tmp_path):
    path = made_picture("odd.jpg", tmp_path)
    code = (
        "import sys, robench.core.decoder as d; d.serve_standard_streams(); print({*sys.modules} & {'torch', 'pyarrow'}, file=sys.stderr)"
    )
    request = json.dumps({"items": [["file", str(path)]], "preprocessing": USUAL.plain()}) + "\n"
    done = subprocess.run([sys.executable, "-c", code], input=request.encode(), capture_output=True, timeout=60, check=True)
    ((kind, *_, body),) = split_answers(done.stdout)
    assert kind == HAS_PIXELS
    assert body == decoded_item(("file", str(path)), USUAL).tobytes()
    assert done.stderr.decode().strip() == "set()"
