"""The costs of a run that is planned, as the table and the sentences that people read."""

from __future__ import annotations

from collections.abc import Sequence

from robench.core.recipes import eps_text
from robench.report.tables import TextTable
from robench.runs.costs import RunCosts, StageCost

UNKNOWN, UNCOUNTED = "not known", "not counted"
HOUR = 3600.0
COLUMNS = ("passes", "at most", "likely", "memory", "disk")
IDLE = 0.005  # a share of the whole below which reading the images has no line


def cost_table(costs: RunCosts, title: str) -> TextTable:
    """A line for each stage of each model, and one for the whole.

    Args:
        costs: of the run.
        title: what is planned.
    """
    several = len({stage.subject for stage in costs.stages if stage.subject}) > 1
    lines = [cost_line(costs, group, several) for group in stage_groups(costs, several)]
    if costs.fixed_seconds:
        seconds = duration_text(costs.fixed_seconds)
        lines.append((*[""] * several, "preparation", "", seconds, seconds, "", ""))
    total = (duration_text(costs.seconds), duration_text(costs.likely_seconds), bytes_text(costs.memory), bytes_text(costs.disk))
    lines.append((*[""] * several, "all", "", *total))
    words = ("model", "stage") if several else ("stage",)
    return TextTable(title, (*words, *COLUMNS), lines, len(words))


def stage_groups(costs: RunCosts, several: bool) -> list[list[StageCost]]:
    """The stages that share a line: the severities of a corruption and, where there is one model, the making of its images."""
    groups: dict[tuple[str, ...], list[StageCost]] = {}
    for stage in costs.stages:
        if stage.kind == "reading" and costs.stage_seconds(stage) < IDLE * costs.seconds:
            continue
        kind = "made" if stage.kind in ("making", "corruption", "sequence") and not several else stage.kind
        subject = stage.subject if several or kind == "reading" else ""
        threat = f"{stage.threat.norm} {stage.threat.eps}" if stage.threat else ""
        groups.setdefault((subject, kind, stage.name, threat), []).append(stage)
    return list(groups.values())


def cost_line(costs: RunCosts, group: Sequence[StageCost], several: bool) -> tuple[str, ...]:
    """One line of the table."""
    first, known = group[0], all(stage.times is not None for stage in group)
    counted = [stage.passes for stage in group if stage.passes is not None]
    forwards, backwards = (sum(passes[place] for passes in counted) for place in (0, 1))
    most, likely = (sum(costs.stage_seconds(stage, likely=way) for stage in group) for way in (False, True))
    memory = max((stage.memory or 0 for stage in group), default=0)
    return (
        *([first.subject or "all"] if several else []),
        cost_line_name(costs, group),
        passes_text(forwards, backwards) if counted else "" if first.kind in ("reading", "making", "files") else UNCOUNTED,
        "" if first.kind == "files" else duration_text(most) if known else UNKNOWN,
        "" if first.kind == "files" else duration_text(likely) if known else UNKNOWN,
        bytes_text(memory) if memory else "",
        bytes_text(sum(stage.disk for stage in group)),
    )


def cost_line_name(costs: RunCosts, group: Sequence[StageCost]) -> str:
    """The stage as the table names it, with the threat where there are several."""
    first = group[0]
    if first.kind == "reading":
        return "reading the images"
    if first.kind == "making" and all(stage.kind == "making" for stage in group):
        return f"making {first.name}"
    several = len({stage.threat for stage in costs.stages if stage.threat}) > 1
    return f"{first.name} at {first.threat.norm} {eps_text(first.threat.eps)}" if first.threat and several else first.name


def passes_text(forwards: float, backwards: float) -> str:
    """The passes of an image, forward and backward.

    Args:
        forwards: how many forward passes.
        backwards: how many backward passes.
    """
    return f"{forwards:,.0f} + {backwards:,.0f}"


def cost_sentences(costs: RunCosts, budget: float | None) -> list[str]:
    """What the table says of time: the images that a budget, else an hour, is enough for.

    Args:
        costs: of the run.
        budget: seconds, or None.
    """
    seconds = HOUR if budget is None else budget
    least, likely = (costs.images_within(seconds, likely=way) for way in (False, True))
    sentences = [f"Without {', '.join(costs.unknown)}, of which the cost is not known."] if costs.unknown else []
    if budget is None and costs.seconds <= HOUR:
        which = "The one image takes" if costs.n == 1 else f"All {costs.n:,} images take"
        sentences.append(f"{which} {duration_text(costs.seconds)} at most: an hour is enough.")
    else:
        what = "An hour, as --budget 1h," if budget is None else f"A budget of {duration_text(budget)}"
        sentences.append(
            f"{what} is enough for {least:,} of the {costs.n:,} images at the least, and likely for {likely:,}: with a budget they come in "
            "random order, block by block, and the run ends by itself; --resume goes on."
        )
        if not likely:
            sentences.append("Where not even the first image is through in time, the run ends with an error that says so.")
    return sentences


def reading_help(costs: RunCosts) -> list[str]:
    """How to read the table.

    Args:
        costs: what a run would cost
    """
    shared = f", shared by {costs.processes} processes, of which one was timed alone" if costs.processes > 1 else ""
    return [
        "passes are forward + backward, of one image that stands to the end (of a probe, of the images that were timed)",
        f"at most is the time if every image stood to the end{shared}, in batches of {costs.batch_size}; likely goes by the "
        "shares below, and is an estimate",
        *costs.notes,
        "disk is what the run writes at the most, in part only while it lasts; tables, pictures and the page at the end are not counted",
    ]


def duration_text(seconds: float) -> str:
    """Seconds as people say them.

    Args:
        seconds: at least 0.

    Example:
        >>> duration_text(0.02), duration_text(75), duration_text(7200), duration_text(600_000)
        ('20 ms', '1.2 min', '2.0 h', '6.9 days')
    """
    for unit, size, least in (("days", 86400.0, 172800.0), ("h", 3600.0, 3597.0), ("min", 60.0, 60.0)):
        if seconds >= least:
            return f"{seconds / size:,.1f} {unit}"
    if seconds >= 1:
        return f"{seconds:.1f} s"
    return f"{1000 * seconds:.{0 if seconds >= 0.01 else 1}f} ms" if seconds >= 1e-4 else "0 ms"


def bytes_text(count: int) -> str:
    """Bytes as people say them.

    Args:
        count: at least 0.

    Example:
        >>> bytes_text(512), bytes_text(3 << 20), bytes_text(5 << 30)
        ('512 B', '3.0 MiB', '5.0 GiB')
    """
    for unit, size in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if count >= size:
            return f"{count / size:,.1f} {unit}"
    return f"{count} B"
