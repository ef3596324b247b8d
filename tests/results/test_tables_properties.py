"""Properties of results folders: rows are read as they were written, and files of anything are refused with one sentence."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from properties import TEXTS, new_folder

from robench.core.errors import InputError
from robench.core.rows import Row, Sample
from robench.core.saved_results import load_all_results
from robench.results.files import read_rows, save_tables

WORDS = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), max_size=6) | st.sampled_from(
    ["pgd on fog", "a, b", 'say "x"', ""]
)
NUMBERS = st.floats(allow_infinity=False)
COUNTS = st.integers(0, 10**9)
ROWS = st.builds(Row, WORDS, WORDS, WORDS, WORDS, COUNTS, COUNTS, WORDS, NUMBERS, WORDS, WORDS, WORDS, NUMBERS, NUMBERS, NUMBERS, WORDS)
FILES = ("rows.csv", "samples.csv", "manifest.json")
CONTENTS = (
    st.binary(max_size=80) | TEXTS.map(str.encode) | st.sampled_from([b"", b"\n", b"{}\n", b'{"data": 1}\n', b'"\n', b"a,b\n1\n", b"\0\n"])
)


def same(one, other):
    return one == other or (isinstance(one, float) and math.isnan(one) and math.isnan(other))


def results_in(folder):
    """A small results folder, as a run writes it."""
    clean = Row("net", "", "set", "test", 2, 0, "", 0.0, "clean", "", "accuracy", 1.0)
    broken = Row("net", "", "set", "test", 2, 0, "linf", 0.03, "pgd", "steps=3", "accuracy", 0.5)
    samples = [Sample(0, 1, 1, 1, "", math.nan, -1, 0.5, 0.25, 0.01, 3, 3), Sample(1, 0, 0, 1, "pgd", 0.03, 2, 0.5, -0.25, 0.03, 3, 3)]
    manifest = {"data": {"n": 2, "name": "set", "split": "test", "sha256": "0" * 64}, "seed": 0}
    save_tables(folder, [clean, broken], samples, manifest)


@given(st.lists(ROWS, max_size=4))
def test_rows_are_read_as_they_were_written(rows):
    with new_folder() as folder:
        save_tables(folder, rows, [], {})
        again = read_rows(folder)
    assert len(again) == len(rows)
    for one, other in zip(rows, again, strict=True):
        assert all(same(value, vars(other)[name]) for name, value in vars(one).items())


@given(CONTENTS)
def test_a_table_of_anything_gives_rows_or_is_refused(content):
    with new_folder() as folder:
        (folder / "rows.csv").write_bytes(content)
        try:
            assert all(isinstance(row, Row) for row in read_rows(folder))
        except InputError:
            return


@given(TEXTS | st.just("a" * 300))
def test_a_results_folder_that_is_not_there_is_refused(name):
    with new_folder() as folder, pytest.raises(InputError):
        load_all_results(folder / "none" / name)


@given(st.sampled_from(FILES), CONTENTS)
def test_a_results_folder_with_a_file_of_anything_is_refused(name, content):
    with new_folder() as folder:
        results_in(folder)
        assert len(load_all_results(folder)[0].stages) == 2
        (folder / name).write_bytes(content)
        try:
            load_all_results(folder)
        except InputError:
            return
        raise AssertionError(f"{name} with {content!r} was read")


@given(st.sampled_from(FILES), st.floats(0, 1, exclude_max=True), st.integers(1, 255))
def test_a_results_folder_with_another_byte_is_read_or_refused(name, share, bits):
    with new_folder() as folder:
        results_in(folder)
        content = bytearray((folder / name).read_bytes())
        content[int(share * len(content))] ^= bits
        (folder / name).write_bytes(content)
        try:
            results = load_all_results(folder)
        except InputError:
            return
        assert all(len(one.labels) == 2 for one in results)


@given(
    st.recursive(
        st.none() | st.integers() | TEXTS, lambda part: st.lists(part, max_size=2) | st.dictionaries(TEXTS, part, max_size=2), max_leaves=4
    )
)
def test_a_manifest_of_any_json_is_refused(content):
    with new_folder() as folder:
        results_in(folder)
        (folder / "manifest.json").write_text(json.dumps(content) + "\n")
        try:
            load_all_results(folder)
        except InputError:
            return
        raise AssertionError(f"{content!r} was taken for a manifest")
