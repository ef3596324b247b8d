"""How many examples the property tests try, and what several of them make their examples of.

A property test has a file of its own, test_*_properties.py. Plain pytest tries few examples, always the same ones; `pytest -m slow` runs
the same tests with many.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st

EXAMPLES = {"quick": 30, "slow": 1000}
# what people write, and what looks like it: far likelier to be nearly right than letters at random
SPELLINGS = st.lists(st.sampled_from([*"abe01/.-+_:,=% ", "pgd", " on ", "8/255", "nan", "inf", "1e9", "true", "mine.py:f", "é", "٣"])).map(
    "".join
)
TEXTS = SPELLINGS | st.text(max_size=30)


def load_examples(run: str) -> None:
    """Sets how many examples the property tests that are imported from now on try, and that these are the same ones each time."""
    settings.register_profile(run, max_examples=EXAMPLES[run], deadline=None, derandomize=True, database=None)
    settings.load_profile(run)


@contextmanager
def new_folder() -> Iterator[Path]:
    """An empty folder for one example; gone at the end."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)
