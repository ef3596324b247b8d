"""Writes tests/slow.csv, the list of the tests that plain pytest leaves out, with the seconds that each took.

    pytest -m "" -n 2 --junitxml=report.xml
    python tests/slow_list.py report.xml

A case of at least LIMIT seconds is slow. Where that would leave a test function without a quick case, its shortest case stays, unless
it takes longer than PATIENCE; of a whole file the shortest stays whatever it takes. Tests that are marked slow in their file are listed
too, so that the list is whole.
"""

from __future__ import annotations

import csv
import math
import sys
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from xml.etree import ElementTree

LIMIT = 1.0  # seconds
PATIENCE = 1.5  # seconds
LIST = Path(__file__).parent / "slow.csv"


def seconds_by_test(reports: list[str]) -> dict[str, float]:
    """The seconds of every test of some JUnit reports, by its id; of a test in several reports, the least."""
    seconds: dict[str, float] = {}
    for report in reports:
        for test, taken in cases_of(report):
            seconds[test] = min(taken, seconds.get(test, taken))
    return seconds


def cases_of(report: str) -> Iterator[tuple[str, float]]:
    """The id and the seconds of every test of a JUnit report that was run."""
    for case in ElementTree.parse(report).iter("testcase"):
        if case.find("skipped") is None:
            yield f"{case.attrib['classname'].replace('.', '/')}.py::{case.attrib['name']}", float(case.attrib["time"])


def slow_tests(seconds: dict[str, float]) -> dict[str, float]:
    """The tests that are left out of the quick run, with their seconds, longest first."""
    slow = {test: taken for test, taken in seconds.items() if taken >= LIMIT}
    for kind, patience in ((function_of, PATIENCE), (file_of, math.inf)):
        kinds: dict[str, list[str]] = defaultdict(list)
        for test in seconds:
            kinds[kind(test)].append(test)
        for cases in kinds.values():
            shortest = min(cases, key=seconds.__getitem__)
            if all(case in slow for case in cases) and seconds[shortest] <= patience:
                del slow[shortest]
    return dict(sorted(slow.items(), key=lambda item: -item[1]))


def function_of(test: str) -> str:
    """The test function of a case, with its file."""
    return test.partition("[")[0]


def file_of(test: str) -> str:
    """The file of a test."""
    return test.partition("::")[0]


def main(reports: list[str]) -> None:
    """Writes the list, and prints what is left in the quick run."""
    seconds = seconds_by_test(reports)
    slow = slow_tests(seconds)
    with LIST.open("w", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(("seconds", "test"))
        writer.writerows((f"{taken:.1f}", test) for test, taken in slow.items())
    quick = sum(seconds.values()) - sum(slow.values())
    print(f"{len(slow)} slow tests of {sum(slow.values()):.0f} s, {len(seconds) - len(slow)} quick ones of {quick:.0f} s")


if __name__ == "__main__":
    main(sys.argv[1:])
