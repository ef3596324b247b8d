"""What a run and its page must know of a score besides its function; it stands right above that function."""

from __future__ import annotations

from dataclasses import dataclass

from robench.core.facts import FactsAbove

HIGHER, LOWER, NEITHER = "higher is better", "lower is better", "neither by itself"


@dataclass(frozen=True)
class ScoreFacts(FactsAbove):
    """What is known of one score; the defaults are what holds of one of the user's own.

    It is used as a decorator: `@ScoreFacts("The part of a map's sum that lies in the middle.", HIGHER, group="maps")`.

    Attributes:
        meaning: what its mean over images is, in one sentence, as the page of a run tells it.
        better: which direction is better: HIGHER, LOWER, NEITHER, or words of its own.
        group: the name under which `--score` asks for it together with others: maps, trust, masks for scores that need masks of the
            objects, or jacobian for those of the model alone; "" for none, so that it is measured only where it is named.
        group_options: the options that it has in its group, such as "block=4".
        makes_maps: it asks the method for maps again.
        complete_only: it is defined only for methods whose maps add up to the rise of the logit over one baseline; its own option
            `baseline` is theirs unless the user gives another.
    """

    meaning: str = "The mean over images of a score of the user's own."
    better: str = "its author knows"
    group: str = ""
    group_options: str = ""
    makes_maps: bool = False
    complete_only: bool = False
