"""Properties of the state of a run: whatever is cut off, what is read back is what was finished before; whatever is changed is noticed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st
from properties import new_folder

from robench.core.errors import InputError
from robench.core.journal import CHECK, FINISHED_LINE, Journal, differing_excerpts, has_begun, sealed_lines

PLAIN = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5)
JSON = st.recursive(
    PLAIN, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3), max_leaves=8
)
ENTRIES = st.dictionaries(st.text(max_size=5).filter(lambda key: key != CHECK), JSON, max_size=4).filter(
    lambda entry: entry != FINISHED_LINE
)
RUNS = st.tuples(ENTRIES, st.lists(ENTRIES, max_size=4))


def state_in(folder, content):
    path = folder / "state-0.jsonl"
    path.write_bytes(content)
    return path


@given(RUNS, st.data())
def test_of_a_state_that_is_cut_off_anywhere_the_first_entries_are_read(run, data):
    header, entries = run
    content = sealed_lines([header, *entries])
    cut = data.draw(st.integers(0, len(content)))
    with new_folder() as folder:
        path = state_in(folder, content[:cut])
        whole = max(0, content[:cut].count(b"\n") - 1)
        assert has_begun(folder) is (whole > 0)
        journal = Journal(folder, header, resume=True)
        assert journal.entries == entries[:whole]
        for entry in entries[whole:]:
            journal.append(entry)
        assert path.read_bytes() == content


@given(RUNS, st.data())
def test_of_a_state_in_which_a_byte_is_another_nothing_false_is_read(run, data):
    header, entries = run
    content = sealed_lines([header, *entries])
    place = data.draw(st.integers(0, len(content) - 1))
    changed = bytes([content[place] ^ data.draw(st.integers(1, 255))])
    with new_folder() as folder:
        state_in(folder, content[:place] + changed + content[place + 1 :])
        if place == len(content) - 1:  # the last line has no end any more: it is as if it were cut off
            assert Journal(folder, header, resume=True).entries == entries[:-1]
        else:
            with pytest.raises(InputError):
                Journal(folder, header, resume=True)


@given(ENTRIES, st.binary(max_size=60) | st.lists(st.sampled_from([b"{}", b"\n", b'{"check":"0"}', b"[]", b"null", b"1"])).map(b"".join))
def test_a_file_of_anything_is_refused_or_begun_anew(header, content):
    with new_folder() as folder:
        state_in(folder, content)
        try:
            assert Journal(folder, header, resume=True).entries == []
        except InputError:
            assert b"\n" in content


@given(st.text(max_size=200), st.text(max_size=200), st.text(max_size=200))
def test_two_texts_are_told_apart_in_few_letters(begin, one, other):
    a, b, of = differing_excerpts(begin + one, begin + other)
    assert max(len(a), len(b)) <= 66
    assert (a == b) is (one == other)
    assert of == ""
