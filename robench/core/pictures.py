"""Opening image files of any origin: only formats that are decoded in memory, of no more pixels than a photograph has."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

from PIL import Image, UnidentifiedImageError

from robench.core.errors import InputError


class UnreadablePictureError(InputError):
    """A file is no image, a damaged one, or one of more pixels than are read."""


# without EPS, for which Pillow starts Ghostscript, and formats that no set of images uses
PICTURE_FORMATS = ("AVIF", "BMP", "DIB", "GIF", "ICO", "JPEG", "JPEG2000", "MPO", "PNG", "PPM", "TGA", "TIFF", "WEBP")
MOST_FILE_PIXELS = 89_478_485  # of one file; from here on Pillow warns of a bomb


@contextmanager
def opened_picture(file: Path | str, content: bytes | None = None) -> Iterator[Image.Image]:
    """The image in a file, whose pixels are decoded where they are asked for inside the block.

    Args:
        file: of one of the formats above, whatever its name ends with.
        content: the bytes of the image, where it is part of a larger file; `file` is then its name in sentences.

    Raises:
        UnreadablePictureError: where it is none, damaged, or of more than MOST_FILE_PIXELS pixels, which a few bytes can claim; also in the
            block, for whatever decoding raises.
    """
    try:
        Image.init()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            image = Image.open(
                file if content is None else BytesIO(content), formats=[name for name in PICTURE_FORMATS if name in Image.OPEN]
            )
        with image:
            if image.width * image.height > MOST_FILE_PIXELS:
                raise UnreadablePictureError(
                    f"{file} says that it has {image.width} x {image.height} pixels: {MOST_FILE_PIXELS:,} are the most"
                )
            yield image
    except InputError:
        raise
    except Image.DecompressionBombError:  # raised from its header, before its size can be asked for
        raise UnreadablePictureError(
            f"{file} says that it has more than {2 * MOST_FILE_PIXELS:,} pixels, and at most {MOST_FILE_PIXELS:,} are read"
        ) from None
    except Exception as error:  # decoders have exceptions of their own for each damage
        words = "it has no format that is known" if content is not None and isinstance(error, UnidentifiedImageError) else error
        raise UnreadablePictureError(f"{file} cannot be read as an image ({words}): repair or remove it") from error
