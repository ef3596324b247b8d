"""What is checked before a commit is what is checked of every change."""

import re

from places import ROOT


def test_the_hooks_of_a_commit_are_the_quick_checks_of_every_change():
    hooks = re.findall(r"^ *entry: (.+)$", (ROOT / ".pre-commit-config.yaml").read_text(), re.MULTILINE)
    checks = [line for line in (ROOT / ".ci" / "run").read_text().splitlines() if line.startswith(("ruff", "mypy"))]
    assert hooks == checks == ["ruff format --check .", "ruff check .", "mypy"]
