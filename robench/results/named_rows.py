"""The names by which a user picks rows, NAME@KEY=VALUE: of columns of a table, and of gates."""

from __future__ import annotations

from robench.results.image_values import CLASS_METRIC, WORST_CLASS_METRIC

METRIC_ALIASES = {"worst-class": WORST_CLASS_METRIC, "class": CLASS_METRIC}  # what a name means, if it is no probe


def name_and_words(text: str) -> tuple[str, tuple[tuple[str, str], ...]] | None:
    """The parts of NAME or NAME@KEY=VALUE[@KEY=VALUE], without spaces around them; None for what is not written so.

    Args:
        text: as the user wrote it.

    Example:
        >>> name_and_words("class@class=4@norm=l2")
        ('class', (('class', '4'), ('norm', 'l2')))
    """
    name, *pairs = text.split("@")
    words = tuple((key.strip(), value.strip()) for key, _, value in (pair.partition("=") for pair in pairs))
    return (name.strip(), words) if name.strip() and all(key and value for key, value in words) else None
