"""The aims for this house, as `measures.py` measures them, and the measuring itself on small packages made for it."""

import ast
from pathlib import Path

import measures
import pytest
from measures import (
    bare_participles,
    body_lengths,
    circles,
    colliding_share,
    collisions,
    counts_of_tests,
    definitions,
    documents_arguments,
    imported_modules,
    modules_in,
    packages_at_top,
    public_functions,
    read_modules,
    table,
    takes_arguments,
)

ROOT = Path(__file__).parents[2]
ALLOWED_COLLISIONS = {  # a name that stands for two things, and why it may
    "gini": "the function for one's own maps at top level, and the score of that name, which calls the same formula",
    "saliency": "the command from Python, called as on the command line, and the method that papers call saliency",
}


@pytest.fixture(scope="module")
def house():
    """The modules of this package."""
    return read_modules(ROOT)


def made(folder, files):
    """The modules of a package `robench` with these files: a text by "a/b" is that of robench/a/b.py."""
    for name, text in files.items():
        path = folder / "robench" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        for package in path.relative_to(folder).parents[:-1]:
            (folder / package / "__init__.py").touch()
        path.write_text(text)
    return read_modules(folder)


def graph_of(modules):
    return {name: imported_modules(module, modules) for name, module in modules.items()}


def definitions_in(modules):
    return [thing for module in modules.values() for thing in definitions(module)]


def test_every_public_function_says_what_its_arguments_are(house):
    silent = [name for name, function in public_functions(house).items() if takes_arguments(function) and not documents_arguments(function)]
    assert silent == []


def test_there_are_few_packages_at_top_level_and_few_modules_in_the_command_line(house):
    assert len(packages_at_top(house)) <= 16
    assert len(modules_in(house, "cli")) <= 14


def test_no_circle_of_imports_also_none_through_imports_inside_functions_and_for_types(house):
    assert circles(graph_of(house)) == []


def test_a_name_stands_for_one_thing_and_what_stands_for_two_is_listed_with_its_reason(house):
    things = definitions_in(house)
    assert colliding_share([thing for thing in things if thing.kind != "constant"]) < 0.05
    assert set(collisions(things)) <= set(ALLOWED_COLLISIONS)


def test_imports_are_found_wherever_they_stand(tmp_path):
    modules = made(
        tmp_path,
        {
            "a/one": "from robench.b import two\ndef f():\n    from robench.b.three import x\n    import robench.c\n",
            "b/two": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from robench.a.one import f\n",
            "b/three": "from . import two\nfrom ..c import thing\nimport torch\nx = 1\n",
            "c": "thing = 1\n",
        },
    )
    assert graph_of(modules)["robench.a.one"] == {"robench.b.two", "robench.b.three", "robench.c"}
    assert graph_of(modules)["robench.b.two"] == {"robench.a.one"}
    assert graph_of(modules)["robench.b.three"] == {"robench.b.two", "robench.c"}
    assert circles(graph_of(modules)) == [["robench.a.one", "robench.b.three", "robench.b.two"]]


def test_two_circles_that_share_no_module_are_two_and_a_chain_is_none():
    assert circles({"a": {"b"}, "b": {"c"}, "c": set()}) == []
    assert circles({"a": {"b"}, "b": {"a"}, "c": {"d", "a"}, "d": {"c"}}) == [["a", "b"], ["c", "d"]]


def test_packages_and_modules_are_counted_without_the_ways_in(tmp_path):
    modules = made(tmp_path, {"__main__": "", "a/one": "", "a/deep/two": "", "lone": ""})
    assert packages_at_top(modules) == ["a", "lone"]
    assert modules_in(modules, "a") == ["robench.a.deep", "robench.a.deep.two", "robench.a.one"]


def test_a_name_of_two_things_is_found_and_dunder_names_and_local_ones_are_not_counted(tmp_path):
    modules = made(
        tmp_path,
        {
            "one": "__all__ = []\nLIMIT = 1\ndef same():\n    def inner(): ...\nclass Same: ...\ndef __getattr__(name): ...\n",
            "two": "__all__ = []\nif True:\n    LIMIT: int = 2\ndef same(): ...\ndef inner(): ...\na, b = 1, 2\n",
        },
    )
    things = definitions_in(modules)
    assert sorted((thing.name, thing.kind) for thing in things) == [
        ("LIMIT", "constant"), ("LIMIT", "constant"), ("Same", "class"), ("a", "constant"), ("b", "constant"),
        ("inner", "function"), ("same", "function"), ("same", "function"),
    ]  # fmt: skip
    assert collisions(things) == {"LIMIT": ["robench.one", "robench.two"], "same": ["robench.one", "robench.two"]}
    assert colliding_share([thing for thing in things if thing.kind != "constant"]) == 2 / 4


def test_a_participle_is_bare_where_the_name_is_that_one_word():
    names = ["told", "altered", "Kept", "HIDDEN", "_drawn", "altered_pixels", "AlteredPixels", "seed", "SEED", "token", "nineteen", "red"]
    assert bare_participles(names) == ["HIDDEN", "Kept", "_drawn", "altered", "told"]


def test_the_lines_of_a_body_are_those_with_code(tmp_path):
    text = '''
@decorated(
    1
)
def long(
    a,
):
    """A docstring

    of three lines."""

    # a comment
    b = (  # and another
        a
    )
    def inner():
        """Its own."""
        return 1
    text = """not

    a docstring"""
    return b

class Thing:
    def method(self): return 1
    async def empty(self):
        """Nothing but words."""
'''
    assert body_lengths(made(tmp_path, {"one": text})["robench.one"]) == {
        "robench.one.long": 3 + 2 + 3 + 1,
        "robench.one.long.inner": 1,
        "robench.one.Thing.method": 1,
        "robench.one.Thing.empty": 0,
    }


def test_what_others_import_what_a_registry_holds_and_what_is_exported_is_public(tmp_path):
    modules = made(
        tmp_path,
        {
            "__init__": "from robench.a import handed_on\nfrom robench.b.two import exported\n__all__ = ['exported']\n",
            "a/__init__": "from robench.a.one import handed_on as handed_on, listed, bound\n"
            "TABLE = {'x': listed, 'y': partial(bound, k=1)}\n",
            "a/one": "".join(f"def {name}(): ...\n" for name in ("handed_on", "listed", "bound", "by_module", "inside", "unused")),
            "a/other": "from robench.a.one import inside\n",
            "b/two": "from robench.a import one as o\ndef exported(x): return o.by_module()\ndef local(): ...\n",
        },
    )
    names = [place.removeprefix("robench.") for place in public_functions(modules)]
    assert names == ["a.one.bound", "a.one.by_module", "a.one.handed_on", "a.one.listed", "b.two.exported"]


@pytest.mark.parametrize(
    ("source", "documents", "lines"),
    [
        ("def f(a):\n    '''One.\n\n    Args:\n        a: one.\n    '''", True, 4),
        ("def f(a):\n    '''Its Args: none.'''", False, 1),
        ("def f(*a): ...", False, 0),
    ],
)
def test_a_docstring_is_measured_by_its_lines_and_its_arguments(source, documents, lines):
    function = ast.parse(source).body[0]
    assert measures.takes_arguments(function)
    assert measures.documents_arguments(function) is documents
    assert measures.docstring_lines(function) == lines


def test_sections_of_a_docstring_are_found_by_their_heads():
    function = ast.parse("def f(a):\n    '''One.\n\n    Raises:\n        InputError: always; Returns: never.\n    '''").body[0]
    assert measures.has_section(function, "Raises")
    assert not measures.has_section(function, "Returns")


def test_names_inside_classes_and_of_modules_are_measured(tmp_path):
    source = "class A:\n    told: int\n    width: int\n    def kept(self): ...\n    def size(self): ...\n"
    modules = made(tmp_path, {"a/one": source, "b/one": "", "b/moved": ""})
    lines = dict(measures.inner_name_lines(modules))
    assert lines["module names used twice"] == "1: one (robench.a, robench.b)"
    assert lines["participles as module names"] == "1: moved"
    assert lines["as methods and fields"] == "2: kept, told"


def test_tests_and_what_they_claim_are_counted(tmp_path):
    (tmp_path / "test_one.py").write_text(
        "@given(x=integers())\ndef test_a(x):\n    assert x\n    with pytest.raises(ValueError): f()\n"
        "class TestB:\n    def test_c(self): assert 1\n"
    )
    (tmp_path / "helper.py").write_text("def test_not(): assert 1\ndef g():\n    with pytest.warns(UserWarning): assert 2\n")
    assert counts_of_tests(tmp_path) == {
        "test files": 1,
        "test functions": 2,
        "property tests": 1,
        "assert statements": 4,
        "raises and warns": 2,
    }


@pytest.mark.parametrize(("values", "level", "expected"), [([], 0.5, 0), ([3], 0.9, 3), (range(1, 11), 0.5, 5), (range(1, 11), 0.9, 9)])
def test_a_quantile_is_one_of_the_values(values, level, expected):
    assert measures.quantile(values, level) == expected


def test_the_table_says_everything_of_a_package_of_one_line(tmp_path):
    made(tmp_path, {"a/one": "def f(x): return x\n"})
    (tmp_path / "tests").mkdir()
    lines = table(tmp_path)
    assert ("at top level", "1: a") in lines
    assert ("longest body", "1: robench.a.one.f") in lines
    assert ("circles of imports", "0") in lines
    assert ("public functions", "0, 0 with arguments") in lines
