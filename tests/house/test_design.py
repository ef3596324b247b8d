"""The design document and its picture against the code: what they name exists, and what the picture shows is so."""

import importlib
import re
import xml.etree.ElementTree as ET

import pytest
from places import ROOT
from test_layers import HOMES, LAYERS, MODULES, own_imports

DESIGN = (ROOT / "docs" / "design.md").read_text()
CONTRIBUTING = (ROOT / "docs" / "CONTRIBUTING.md").read_text()
PICTURE = ET.parse(ROOT / "docs" / "flow.svg").getroot()
SVG = "{http://www.w3.org/2000/svg}"
NAMED = sorted(set(re.findall(rf"`((?:{'|'.join(LAYERS)})(?:\.\w+)+)`", DESIGN)))
FILES = sorted(set(re.findall(r"`((?:[\w-]+/)*[\w.-]+\.(?:py|sh|md|csv|toml|yaml)|(?:tests|docs|robench)/[\w/]*)`", CONTRIBUTING)))
WRITTEN_BY_RUNS = ("rows.csv", "samples.csv", "mine.py")
HEIGHTS = {box.get("id"): float(box.find(f"{SVG}rect").get("y")) for box in PICTURE.iter(f"{SVG}g") if box.get("class") == "package"}
ARROWS = [path.get("id").split("-") for path in PICTURE.iter(f"{SVG}path") if path.get("class") == "flow"]


def imports_between(package, other):
    """Whether a module of a package imports one of another."""
    mine = [name for name in MODULES if name.split(".")[0] == package]
    return any(found.split(".")[0] == other for name in mine for found in own_imports(name))


def test_the_table_and_the_picture_have_every_package_and_no_other():
    rows = re.findall(r"^\| `(\w+)` \|", DESIGN, re.MULTILINE)
    assert rows == list(LAYERS)
    assert {*HEIGHTS} == {*LAYERS}
    assert "(flow.svg)" in DESIGN


def test_a_box_of_the_picture_stands_no_lower_than_those_that_it_may_import():
    order = list(LAYERS)
    heights = [HEIGHTS[package] for package in order]
    assert all(low >= high for package, low in enumerate(heights) for high in heights[package + 1 :]), dict(
        zip(order, heights, strict=True)
    )


@pytest.mark.parametrize(("package", "other"), ARROWS)
def test_an_arrow_of_the_picture_joins_packages_of_which_one_imports_the_other(package, other):
    assert imports_between(package, other) or imports_between(other, package)


@pytest.mark.parametrize("name", NAMED)
def test_what_the_design_names_exists(name):
    parts = name.split(".")
    depth = next(depth for depth in range(len(parts), 0, -1) if ".".join(parts[:depth]) in MODULES)
    thing = importlib.import_module(f"robench.{'.'.join(parts[:depth])}")
    for part in parts[depth:]:
        thing = getattr(thing, part)
    home = getattr(thing, "__module__", None) if depth < len(parts) else None  # constants have none
    assert home in (None, f"robench.{'.'.join(parts[:depth])}"), f"{name} is defined in {home}"


def test_the_design_says_where_each_third_party_package_is_imported():
    said = DESIGN.split("Each third-party package")[1].split("\n\n")[0]
    assert [name for name, homes in HOMES.items() if homes and {"PIL": "pillow"}.get(name, name) not in said.lower()] == []
    assert {*re.findall(r"`([a-z_.]+)`", said)} == {
        home.removesuffix(".py").replace("/", ".") for homes in HOMES.values() for home in homes
    }


def test_the_design_names_modules_and_functions_in_plenty():
    assert len(NAMED) > 60


@pytest.mark.parametrize("name", [name for name in FILES if name not in WRITTEN_BY_RUNS])
def test_a_file_that_the_guide_for_contributors_names_exists(name):
    assert (ROOT / name).exists()


def test_each_kind_of_addition_has_a_page_that_the_design_links():
    pages = sorted(path.name for path in (ROOT / "docs").glob("adding-*.md"))
    assert [page for page in pages if f"({page})" not in DESIGN] == []
