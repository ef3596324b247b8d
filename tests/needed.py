"""`needed`: an optional package that a test needs; the test is skipped where the package is not installed, and fails where it has to be.

ROBENCH_NEEDS names the packages that have to be there, as they are imported and parted by commas: `ROBENCH_NEEDS=timm,transformers pytest`.
`.ci/run` sets it in each of its environments, so that no test is skipped in all of them.
"""

from __future__ import annotations

import importlib
import os
import warnings
from types import ModuleType

import pytest


def needed(module: str) -> ModuleType:
    """The module, for a test or, at the top of a file, for all of its tests.

    Args:
        module: as one imports it, "timm" or "timm.data".

    Example:
        transformers = needed("transformers")
    """
    package = module.partition(".")[0]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # what a package says of others when it is imported first
            return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if package in os.environ.get("ROBENCH_NEEDS", "").split(","):
            pytest.fail(f"ROBENCH_NEEDS says that {package} is installed, and it is not: {error}", pytrace=False)
        pytest.skip(f"{module} is not installed", allow_module_level=True)
