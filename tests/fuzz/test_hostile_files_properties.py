"""Whatever lies under the name of a file of a run, it is read or refused with one sentence: bytes, JSON, CSV and names at random."""

import csv
import io
import json
from contextlib import suppress

from hypothesis import example, given
from hypothesis import strategies as st
from page_checks import check_page, controls
from properties import TEXTS, new_folder

from robench.core.cells import csv_cells, safe_cell
from robench.core.errors import InputError
from robench.core.files import is_plain_name
from robench.core.folders import finished_run_files, finished_run_words
from robench.core.rows import Row
from robench.core.saved_results import load_all_results
from robench.evaluation.repeated_runs import manifest_to_repeat
from robench.evaluation.suites import expanded_recipes
from robench.models.loading import checkpoint_meta
from robench.report.page import write_page
from robench.report.reporting import ReportOptions, gathered_runs, report_parts
from robench.report.run_list import run_summaries, summary_lines
from robench.results.image_values import model_images, text_frame
from robench.results.saved_runs import ROW_FIELDS, rows_at, saved_run

FILES = ("manifest.json", "rows.csv", "samples.csv", "samples-probes.csv", "state-0.jsonl")
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | TEXTS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXTS, inner, max_size=4),
    max_leaves=12,
)
MANIFESTS = st.fixed_dictionaries(
    {},
    optional={
        "format": JSON, "words": JSON | st.fixed_dictionaries({"command": TEXTS, "suite": JSON}), "command": JSON, "finished": JSON,
        "flags": JSON, "notes": JSON, "files": JSON | st.lists(TEXTS), "arguments": JSON, "versions": JSON, "models": JSON,
        "data": JSON | st.fixed_dictionaries({"n": JSON, "name": JSON, "split": JSON, "sha256": JSON, "classes": JSON}),
        "checkpoint": JSON, "threat": JSON, "seed": JSON, "device": JSON, "threads": JSON, "corruptions": JSON,
    },
)  # fmt: skip
HEADS = ["sample", "label", "clean_pred", "pred_1", "probe", "fooled", "zero_map", "method", "gini"]
NUMBERS = st.sampled_from(["0", "1", "0.5", "nan", "inf", "-1", "1e308", "", "9" * 400]) | st.integers().map(str)
ROWS = st.lists(
    st.fixed_dictionaries({name: TEXTS if kind == "str" else NUMBERS for name, kind in ROW_FIELDS.items()}), min_size=1, max_size=4
)
GOOD = Row(
    checkpoint="net.pt", preset="", data="shapes", split="test", n=2, seed=0, norm="", eps=0.0, probe="clean", setting="",
    metric="accuracy", value=0.5, low=0.1, high=0.9, interval="wilson",
)  # fmt: skip


def table_bytes(lines):
    """Lines of cells as CSV."""
    file = io.StringIO()
    csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_ALL).writerows(lines)
    return file.getvalue().encode("utf-8", "replace")


def rows_bytes(rows):
    """Rows as a rows.csv."""
    return table_bytes([[*ROW_FIELDS], *([row[name] for name in ROW_FIELDS] for row in rows)])


GOOD_ROWS = rows_bytes([{name: getattr(GOOD, name) for name in ROW_FIELDS}])


def read_all(folder):
    """Everything that reads a results folder, each on its own."""
    for reader in (saved_run, load_all_results, manifest_to_repeat, finished_run_files, finished_run_words):
        with suppress(InputError):
            reader(folder)
    with suppress(InputError):
        model_images(saved_run(folder))
    for name in FILES[1:4]:
        with suppress(InputError):
            text_frame(folder / name)
    list(summary_lines(run_summaries(folder.parent), folder.parent))
    json.dumps([one.plain() for one in run_summaries(folder)], allow_nan=False)
    with suppress(InputError):
        found, left_out = gathered_runs([folder.parent])
        title, parts = report_parts(found, [entry.reason for entry in left_out], ReportOptions())
        check_page(write_page(folder.parent / "page.html", title, parts).read_text())


@given(files=st.dictionaries(st.sampled_from(FILES), st.binary(max_size=120) | TEXTS.map(str.encode), min_size=1))
def test_bytes_at_random_in_a_results_folder(files):
    with new_folder() as place:
        (place / "run").mkdir()
        for name, content in files.items():
            (place / "run" / name).write_bytes(content + b"\n")
        read_all(place / "run")


@given(manifest=MANIFESTS | JSON)
def test_any_manifest_beside_good_rows(manifest):
    with new_folder() as place:
        (place / "run").mkdir()
        (place / "run" / "manifest.json").write_text(json.dumps(manifest) + "\n")
        (place / "run" / "rows.csv").write_bytes(GOOD_ROWS)
        (place / "run" / "samples.csv").write_bytes(
            table_bytes([("sample", "label", "clean_pred", "broken_by"), (0, 1, 1, ""), (1, 1, 0, "clean")])
        )
        read_all(place / "run")


@given(rows=ROWS)
def test_any_cells_of_the_rows(rows):
    with new_folder() as place:
        (place / "run").mkdir()
        (place / "run" / "manifest.json").write_text('{"format": 1}\n')
        (place / "run" / "rows.csv").write_bytes(rows_bytes(rows))
        with suppress(InputError):
            assert len(list(rows_at(place / "run" / "rows.csv"))) == len(rows)
        read_all(place / "run")


@given(head=st.lists(st.sampled_from(HEADS) | TEXTS, max_size=6), cells=st.lists(st.lists(NUMBERS | TEXTS, max_size=6), max_size=4))
def test_any_table_of_images_beside_good_rows(head, cells):
    with new_folder() as place:
        (place / "run").mkdir()
        (place / "run" / "manifest.json").write_text('{"format": 1, "data": {"n": 2}}\n')
        (place / "run" / "rows.csv").write_bytes(GOOD_ROWS)
        (place / "run" / "samples.csv").write_bytes(table_bytes([head, *cells]))
        read_all(place / "run")


@given(content=st.binary(max_size=200) | JSON.map(lambda value: json.dumps(value).encode()))
def test_anything_beside_or_in_place_of_a_checkpoint(content):
    with new_folder() as place:
        for name in ("net.pt", "net.json"):
            (place / name).write_bytes(content)
        for read in (checkpoint_meta, manifest_to_repeat):
            with suppress(InputError):
                read(place / "net.pt")


@given(lines=st.lists(TEXTS, max_size=4))
@example(lines=["pgd on pgd on pgd"])
def test_a_suite_of_any_lines(lines):
    with new_folder() as place:
        (place / "mine.txt").write_text("\n".join(lines).replace("\ud800", "?"), encoding="utf-8")
        with suppress(InputError):
            assert expanded_recipes([str(place / "mine.txt")])


@given(cells=st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1, max_size=4))
def test_cells_are_read_back_and_no_cell_is_a_formula(cells):
    text = table_bytes([[safe_cell(cell) for cell in cells]]).decode()
    assert csv_cells(text) == [cells]


@given(name=TEXTS | st.sampled_from(["..", "../x", "/x", "a/b", "a\\b", "a\0b", ""]))
def test_a_plain_name_stays_in_its_folder(name):
    with new_folder() as place:
        if is_plain_name(name):
            assert (place / name).parent == place


@given(sentence=st.text())
def test_no_sentence_of_an_error_steers_a_terminal(sentence):
    assert not controls(str(InputError(sentence)))
