"""A worker process that decodes images: it takes requests over its standard input and gives pixels back over its standard output.

A request is one line of JSON, {"items": [...], "preprocessing": {...}}. The answer to each item is ANSWER_HEAD and a body: the pixels of
the image, or a sentence. The process ends when its input ends, so that it outlives nobody.
"""

from __future__ import annotations

import json
import os
import signal
import struct
import sys
from typing import Any, BinaryIO

from robench.core.decoding import DamagedImageError, Pixels8, decoded_item, pixel_digest
from robench.core.errors import InputError
from robench.core.preprocessing import preprocessing_from_plain

ANSWER_HEAD = struct.Struct("<cIII16s")  # what follows, height, width, bytes of the body, the digest of the pixels
HAS_PIXELS, IS_DAMAGED, IS_REFUSED, HAS_FAILED = b"P", b"D", b"R", b"F"


def serve_requests(requests: BinaryIO, answers: BinaryIO) -> None:
    """Answers requests until there are no more.

    Args:
        requests: lines of JSON.
        answers: takes the pixels.
    """
    for line in requests:
        request = json.loads(line)
        preprocessing = preprocessing_from_plain(request["preprocessing"], "a request")
        parts = [answer_to(tuple(item), preprocessing) for item in request["items"]]  # all are decoded before the reader is kept waiting
        for part in parts:
            for piece in part:
                answers.write(piece)
        answers.flush()


def answer_to(item: tuple[Any, ...], preprocessing: Any) -> tuple[bytes, Any]:
    """Head and body of the answer to one item."""
    try:
        pixels: Pixels8 = decoded_item(item, preprocessing)
    except Exception as error:  # whatever a decoder raises belongs to this image; the process goes on with the next
        kind = IS_DAMAGED if isinstance(error, DamagedImageError) else IS_REFUSED if isinstance(error, InputError) else HAS_FAILED
        sentence = (str(error) if kind != HAS_FAILED else f"{type(error).__name__}: {error}").encode(errors="surrogatepass")
        return ANSWER_HEAD.pack(kind, 0, 0, len(sentence), b""), sentence
    return ANSWER_HEAD.pack(HAS_PIXELS, *pixels.shape[1:], pixels.nbytes, pixel_digest(pixels).encode()), pixels.data


def serve_standard_streams() -> None:
    """Serves over the standard streams; Ctrl-C is for the process that asks, which then closes the pipe."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what a library prints must not stand among the pixels
    try:
        serve_requests(sys.stdin.buffer, answers)
    except BrokenPipeError:
        os._exit(0)  # nobody reads any more


if __name__ == "__main__":
    serve_standard_streams()
