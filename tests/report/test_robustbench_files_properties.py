"""Whatever an object of JSON holds, it is a published row or one sentence."""

import json
from contextlib import suppress

from hypothesis import given
from hypothesis import strategies as st

from robench.core.errors import InputError
from robench.report.robustbench_files import published_rows

KEYS = (
    "link", "name", "authors", "additional_data", "number_forward_passes", "dataset", "venue", "architecture", "eps", "clean_acc",
    "reported", "autoattack_acc", "footnote", "external", "unreliable", "n_examples",
)  # fmt: skip
GOOD = {"dataset": "cifar10", "eps": "8/255", "clean_acc": "91.10", "autoattack_acc": "65.88"}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)
)


@given(content=st.dictionaries(st.sampled_from(KEYS), JSON))
def test_any_object_gives_a_line_or_one_sentence(tmp_path_factory, content):
    folder = tmp_path_factory.mktemp("published") / "cifar10" / "Linf"
    folder.mkdir(parents=True)
    (folder / "Model.json").write_text(json.dumps(GOOD | content))
    with suppress(InputError):
        ((_, line),) = published_rows(folder).lines
        assert all(0 <= cell.low <= cell.value <= cell.high <= 1 for cell in line.cells.values())
