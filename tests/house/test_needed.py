"""Tests of optional packages are skipped where the package is missing, and fail where it has to be there."""

import pytest
from needed import needed


def test_a_package_that_is_there_is_imported():
    assert needed("json.decoder").JSONDecoder


@pytest.mark.parametrize("needs", ["", "timm", "no_such_package_at_all"])
def test_a_missing_package_is_a_skip_and_a_failure_where_it_has_to_be_there(needs, monkeypatch):
    monkeypatch.setenv("ROBENCH_NEEDS", f"json,{needs}")
    expected = pytest.fail.Exception if needs == "no_such_package_at_all" else pytest.skip.Exception
    with pytest.raises(expected, match="no_such_package_at_all"):
        needed("no_such_package_at_all.part")
