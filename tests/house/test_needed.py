"""Tests of optional packages are skipped where the package is missing, and fail where it has to be there."""

import re
from collections import Counter
from pathlib import Path

import pytest
from needed import needed
from places import ROOT


def test_a_package_that_is_there_is_imported():
    assert needed("json.decoder").JSONDecoder


@pytest.mark.parametrize("needs", ["", "timm", "no_such_package_at_all"])
def test_a_missing_package_is_a_skip_and_a_failure_where_it_has_to_be_there(needs, monkeypatch):
    monkeypatch.setenv("ROBENCH_NEEDS", f"json,{needs}")
    expected = pytest.fail.Exception if needs == "no_such_package_at_all" else pytest.skip.Exception
    with pytest.raises(expected, match="no_such_package_at_all"):
        needed("no_such_package_at_all.part")


def test_what_ci_installs_is_asked_for_with_needed_and_nothing_else():
    script = (ROOT / ".ci" / "run").read_text()
    first, second = (set(names.split(",")) for names in re.findall(r"ROBENCH_NEEDS=(\S+)", script))
    asked = {}
    for path in {*(ROOT / "tests").rglob("*.py")} - {ROOT / "tests" / "needed.py", Path(__file__)}:
        text = path.read_text()
        asked |= {name.partition(".")[0]: path.name for name in re.findall(r'needed(?:_package)?\("([\w.]+)"\)', text)}
        skipped = {name.partition(".")[0] for name in re.findall(r'importorskip\("([\w.]+)"\)', text)}
        assert not skipped & (first | second), f"{path.name} would be skipped where {skipped} is missing: write needed(...)"
    assert asked.keys() <= first | second, "what .ci/run has in neither of its environments is skipped in both"


def test_no_two_files_of_tests_have_one_name_which_pytest_takes_for_one_module():
    names = Counter(path.name for path in (ROOT / "tests").rglob("*.py"))
    assert [name for name, count in names.items() if count > 1] == []
