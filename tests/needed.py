"""`needed`: an optional package that a test needs; the test is skipped where the package is not installed, and fails where it has to be.

ROBENCH_NEEDS names the packages that have to be there, as they are imported and parted by commas: `ROBENCH_NEEDS=timm,transformers pytest`.
`.ci/run` sets it in each of its environments, so that no test is skipped in all of them.
"""

from __future__ import annotations

import importlib
import os
import warnings
from importlib.util import find_spec
from types import ModuleType

import pytest


def needed(module: str) -> ModuleType:
    """The module, for a test or, at the top of a file, for all of its tests.

    Args:
        module: as one imports it, "timm" or "timm.data".

    Example:
        transformers = needed("transformers")
    """
    needed_package(module)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what a package says of others when it is imported first
            return importlib.import_module(module)
    except ModuleNotFoundError as error:
        skip_or_fail(module.partition(".")[0], error)
        raise


def needed_package(module: str) -> None:
    """A skip or failure where the package of a module is not installed; it is not imported here."""
    package = module.partition(".")[0]
    if find_spec(package) is None:
        skip_or_fail(package, f"there is no module {package}")


def skip_or_fail(package: str, why: object) -> None:
    """Ends the test, as a skip unless ROBENCH_NEEDS names the package."""
    if package in os.environ.get("ROBENCH_NEEDS", "").split(","):
        pytest.fail(f"ROBENCH_NEEDS says that {package} is installed, and it is not: {why}", pytrace=False)
    pytest.skip(f"{package} is not installed: {why}", allow_module_level=True)
