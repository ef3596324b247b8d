"""The frames of a video file, by PyAV (the extra `video`), which brings FFmpeg; it is imported as the first video is read."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from robench.core.decoding import DamagedImageError
from robench.core.errors import InputError

MOST_FRAMES = 1000  # of a sequence: those of ImageNet-P have 31 or 41
MOST_VIDEO_PIXELS = 1 << 28  # of all frames of a file together, 768 MiB of bytes


def video_frames(path: Path) -> NDArray[np.uint8]:
    """All frames of a video in their order, (T, H, W, 3) RGB.

    Args:
        path: the file, such as an .mp4.

    Raises:
        DamagedImageError: where the file is no video that can be read to its end.
        InputError: where PyAV is missing, and where the file is larger than any sequence.
    """
    av = pyav()
    frames: list[NDArray[np.uint8]] = []
    try:
        with av.open(str(path)) as container:
            for frame in container.decode(video=0):
                if len(frames) == MOST_FRAMES or (len(frames) + 1) * frame.width * frame.height > MOST_VIDEO_PIXELS:
                    raise InputError(f"{path} has more than {len(frames)} frames of {frame.width}x{frame.height}: no sequence is so long")
                frames.append(frame.to_ndarray(format="rgb24", interpolation="BICUBIC"))
    except (av.error.FFmpegError, OSError, ValueError, IndexError) as error:
        raise DamagedImageError(f"{path} cannot be read as a video ({error}): fetch or make it again") from error
    if not frames or len({frame.shape for frame in frames}) > 1:
        raise DamagedImageError(f"{path} has {'frames of several sizes' if frames else 'no frames'}: fetch or make it again")
    return np.stack(frames)


def pyav() -> Any:
    """The package av. Raises InputError where it is not installed."""
    try:
        import av
        import av.error
    except ImportError:
        raise InputError("the frames of a video are read by PyAV, which is not installed: pip install av") from None
    return av
