"""What the tests of attacks share."""

from torch import Tensor


def gap(distances: Tensor) -> float:
    """An eps inside the widest gap of the middle distances, so that rounding decides nobody's fate."""
    middle = distances.sort().values[len(distances) // 4 : -len(distances) // 4]
    widest = int((middle[1:] / middle[:-1]).argmax())
    return float((middle[widest] * middle[widest + 1]).sqrt())
