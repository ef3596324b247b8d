"""What this house is like, in numbers: packages, circles of imports, names, lengths of functions, documentation, tests.

`python tests/house/measures.py [FOLDER] [--items]` prints a table for the checkout in FOLDER, which is this one unless given. The files
are parsed and nothing of the package is imported, so that it takes seconds and an earlier checkout can be measured with the same script.
With --items, pytest also collects the tests and says how many there are with all their parameters, which takes longer.
"""

from __future__ import annotations

import argparse
import ast
import io
import math
import re
import subprocess
import sys
import tokenize
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from statistics import median

PACKAGE = "robench"
LONG_MODULE = 400  # lines
NO_CODE = (tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENCODING, tokenize.ENDMARKER)
IRREGULAR = (  # participles that end in neither -ed nor -en
    "begun bent bought bound brought built caught cut done drawn fallen felt found given gone grown heard held kept known laid left lent "
    "lost made meant met paid put sent set shown shut sold sought spent split struck sworn taken taught thought thrown told torn won worn"
)
NO_PARTICIPLES = (  # words of one part that end so and are nouns, adjectives or verbs
    "bed breed children deed embed even feed fifteen green heaven indeed keen kitchen listen need nineteen often open oxygen pred red "
    "screen seed seven shed sixteen speed ten then token when"
)
Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Module:
    """A parsed file of the package: its dotted name, and whether it is the `__init__` of a package."""

    name: str
    path: Path
    text: str
    is_package: bool

    @cached_property
    def tree(self) -> ast.Module:
        """The syntax tree."""
        return ast.parse(self.text)

    @cached_property
    def nodes(self) -> list[ast.AST]:
        """Everything in the syntax tree."""
        return [*ast.walk(self.tree)]

    @property
    def home(self) -> str:
        """The package at top level that it is in, "" for the package itself."""
        return [*self.name.split("."), ""][1]

    @property
    def lines(self) -> int:
        """Lines of the file, of whatever kind."""
        return len(self.text.splitlines())


@dataclass(frozen=True)
class Definition:
    """A name that a module defines at its top level; `kind` is function, class or constant."""

    name: str
    module: str
    kind: str
    node: ast.stmt

    @property
    def place(self) -> str:
        """The dotted name."""
        return f"{self.module}.{self.name}"


def read_modules(folder: Path, package: str = PACKAGE) -> dict[str, Module]:
    """The modules of the package in a checkout, by dotted name."""
    modules = {}
    for path in sorted((folder / package).rglob("*.py")):
        parts = path.relative_to(folder).with_suffix("").parts
        is_package = parts[-1] == "__init__"
        name = ".".join(parts[:-1] if is_package else parts)
        modules[name] = Module(name, path, path.read_text(encoding="utf-8"), is_package)
    return modules


def imported_names(module: Module) -> Iterator[tuple[str, str]]:
    """(local name, dotted name) of everything that a file imports, anywhere in it: also inside functions, and for types only."""
    for node in module.nodes:
        if isinstance(node, ast.Import):
            yield from ((alias.asname or alias.name, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = module.name.split(".")
            above = above[: len(above) + module.is_package - node.level] if node.level else []
            source = ".".join([*above, *([node.module] if node.module else [])])
            yield from ((alias.asname or alias.name, f"{source}.{alias.name}") for alias in node.names)


def imported_modules(module: Module, modules: dict[str, Module]) -> set[str]:
    """The modules of the package that a file imports.

    `from robench.data import images` imports robench.data.images where there is such a module, else robench.data. That Python runs the
    `__init__` of a package before a module in it does not count as an import of that `__init__`.
    """
    targets = {name if name in modules else name.rpartition(".")[0] for _, name in imported_names(module)}
    return (targets & modules.keys()) - {module.name}


def circles(graph: dict[str, set[str]]) -> list[list[str]]:
    """The groups of modules that import each other, directly or through others: strongly connected parts of more than one module."""
    reach = {name: reachable(graph, name) for name in graph}
    groups = {frozenset(other for other in reach[name] if name in reach[other]) | {name} for name in graph}
    return sorted(sorted(group) for group in groups if len(group) > 1)


def reachable(graph: dict[str, set[str]], start: str) -> set[str]:
    """All that can be reached from a node along the edges; the node itself only where a circle leads back to it."""
    seen: set[str] = set()
    stack = [*graph[start]]
    while stack:
        name = stack.pop()
        if name not in seen:
            seen.add(name)
            stack.extend(graph.get(name, ()))
    return seen


def top_level(body: Iterable[ast.stmt]) -> Iterator[ast.stmt]:
    """The statements of a module, also those under an `if` or a `try`."""
    for statement in body:
        yield statement
        if isinstance(statement, ast.If | ast.Try):
            yield from top_level(statement.body)
            yield from top_level(statement.orelse)


def definitions(module: Module) -> list[Definition]:
    """What a module defines at its top level. Names with two underscores, which belong to Python, do not count."""
    found = {}
    for node in top_level(module.tree.body):
        for name, kind in defined_names(node):
            if not name.startswith("__"):
                found.setdefault(name, Definition(name, module.name, kind, node))
    return [*found.values()]


def defined_names(node: ast.stmt) -> list[tuple[str, str]]:
    """The names that one statement defines, each with its kind."""
    if isinstance(node, Function):
        return [(node.name, "function")]
    if isinstance(node, ast.ClassDef):
        return [(node.name, "class")]
    targets = node.targets if isinstance(node, ast.Assign) else [node.target] if isinstance(node, ast.AnnAssign) else []
    return [
        (part.id, "constant")
        for target in targets
        for part in ast.walk(target)
        if isinstance(part, ast.Name) and isinstance(part.ctx, ast.Store)
    ]


def collisions(things: Iterable[Definition]) -> dict[str, list[str]]:
    """The names that stand for more than one thing, with the modules that define them."""
    by_name: dict[str, list[str]] = defaultdict(list)
    for thing in things:
        by_name[thing.name].append(thing.module)
    return {name: places for name, places in sorted(by_name.items()) if len(places) > 1}


def colliding_share(things: list[Definition]) -> float:
    """The share of definitions whose name stands for another thing too."""
    return sum(map(len, collisions(things).values())) / max(1, len(things))


def bare_participles(names: Iterable[str]) -> list[str]:
    """The names that are one word and that word a participle: `altered`, `told`, `Found`."""
    return sorted({name for name in names if is_one_word(name) and is_participle(name.strip("_").lower())})


def is_one_word(name: str) -> bool:
    """Whether a name has one part: no underscore inside, and at most one capital at its begin or nothing but capitals."""
    return re.fullmatch(r"_*([A-Z]?[a-z]+|[A-Z]+)", name) is not None


def is_participle(word: str) -> bool:
    """Whether a word ends as participles do, or is an irregular one."""
    return word in IRREGULAR.split() or (len(word) > 3 and word.endswith(("ed", "en")) and word not in NO_PARTICIPLES.split())


def code_lines(module: Module) -> set[int]:
    """The numbers of the lines that hold code: neither empty, nor a comment alone, nor of a docstring."""
    lines: set[int] = set()
    for token in tokenize.generate_tokens(io.StringIO(module.text).readline):
        if token.type not in NO_CODE:
            lines.update(range(token.start[0], token.end[0] + 1))
    for node in module.nodes:
        if isinstance(node, Function | ast.ClassDef | ast.Module) and ast.get_docstring(node, clean=False) is not None:
            lines.difference_update(range(node.body[0].lineno, (node.body[0].end_lineno or 0) + 1))
    return lines


def body_lengths(module: Module) -> dict[str, int]:
    """The lines of code in the body of each function and method, by dotted name.

    The lines of the signature and of decorators do not count, nor do docstrings, empty lines and comments; a function inside another
    counts in both.
    """
    code, lengths = code_lines(module), {}
    for owner, node in named_functions(module.tree, module.name):
        body = range(node.body[0].lineno, (node.end_lineno or 0) + 1)
        lengths[f"{owner}.{node.name}"] = sum(line in code for line in body)
    return lengths


def named_functions(node: ast.AST, owner: str) -> Iterator[tuple[str, Function]]:
    """Every function under a node, with the dotted name of what it stands in."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, Function):
            yield owner, child
        name = f"{owner}.{child.name}" if isinstance(child, Function | ast.ClassDef) else owner
        yield from named_functions(child, name)


def quantile(values: Iterable[float], level: float) -> float:
    """The smallest value that at least this share of the values does not exceed; 0 without values."""
    ordered = sorted(values)
    return ordered[max(0, math.ceil(level * len(ordered)) - 1)] if ordered else 0


def public_functions(modules: dict[str, Module]) -> dict[str, Function]:
    """The functions that others than their own package use, by dotted name.

    They are those that another package imports, by name or through their module, those in a dict at the top level of a module (a
    registry), and those in `__all__` of the package.
    """
    functions = {thing.place: thing.node for module in modules.values() for thing in definitions(module) if thing.kind == "function"}
    aliases = {name: dict(imported_names(module)) for name, module in modules.items()}
    used: set[str] = set()
    for name, module in modules.items():
        mentioned = [*aliases[name].values(), *attributes_of_modules(module, aliases[name])]
        targets = {resolved(other, functions, aliases) for other in mentioned}
        used |= {target for target in targets if modules.keys() & {owner(target)} and modules[owner(target)].home != module.home}
        used |= {resolved(f"{name}.{word}", functions, aliases) for word in registered_words(module)}
    root = min(modules, key=len)
    used |= {resolved(f"{root}.{name}", functions, aliases) for name in exported_names(modules[root])}
    return {place: node for place, node in sorted(functions.items()) if place in used and isinstance(node, Function)}


def owner(place: str) -> str:
    """The dotted name without its last part."""
    return place.rpartition(".")[0]


def resolved(place: str, functions: dict[str, ast.stmt], aliases: dict[str, dict[str, str]]) -> str:
    """The dotted name at which a function is defined, where modules hand on what they import; as it is where that leads nowhere."""
    seen: set[str] = set()
    while place not in functions and place not in seen:
        seen.add(place)
        parts = place.split(".")
        cut = next((cut for cut in range(len(parts) - 1, 0, -1) if ".".join(parts[:cut]) in aliases), 0)
        imported = aliases.get(".".join(parts[:cut]), {}).get(parts[cut])
        place = ".".join([imported, *parts[cut + 1 :]]) if imported else place
    return place


def attributes_of_modules(module: Module, aliases: dict[str, str]) -> Iterator[str]:
    """The dotted names of attributes that a file takes from what it imports: `files.read_npz`."""
    for node in module.nodes:
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in aliases:
            yield f"{aliases[node.value.id]}.{node.attr}"


def registered_words(module: Module) -> Iterator[str]:
    """What stands in dicts at the top level of a module, as it is spelled there: names, and attributes of names."""
    for node in top_level(module.tree.body):
        value = getattr(node, "value", None)
        if isinstance(value, ast.Dict):
            for part in ast.walk(value):
                if isinstance(part, ast.Name):
                    yield part.id
                elif isinstance(part, ast.Attribute) and isinstance(part.value, ast.Name):
                    yield f"{part.value.id}.{part.attr}"


def exported_names(module: Module) -> list[str]:
    """The words of `__all__`."""
    for node in module.tree.body:
        if isinstance(node, ast.Assign) and any(isinstance(target, ast.Name) and target.id == "__all__" for target in node.targets):
            return [str(name) for name in ast.literal_eval(node.value)]
    return []


def takes_arguments(function: Function) -> bool:
    """Whether a function has a parameter."""
    arguments = function.args
    return bool(arguments.posonlyargs or arguments.args or arguments.kwonlyargs or arguments.vararg or arguments.kwarg)


def has_section(function: Function, section: str) -> bool:
    """Whether the docstring of a function has a section, such as `Args`."""
    return re.search(rf"^{section}:$", ast.get_docstring(function) or "", re.MULTILINE) is not None


def documents_arguments(function: Function) -> bool:
    """Whether the docstring of a function has a section `Args:`."""
    return has_section(function, "Args")


def docstring_lines(function: Function) -> int:
    """Lines of the docstring, empty ones included; 0 without one."""
    return len((ast.get_docstring(function) or "").splitlines())


def counts_of_tests(folder: Path) -> dict[str, int]:
    """How many tests a folder of tests holds, and what they claim: `assert` and `pytest.raises` or `pytest.warns`, helpers included."""
    counts = dict.fromkeys(("test files", "test functions", "property tests", "assert statements", "raises and warns"), 0)
    for path in sorted(folder.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        is_test_file = path.name.startswith("test_")
        counts["test files"] += is_test_file
        for node in ast.walk(tree):
            if isinstance(node, Function) and is_test_file and node.name.startswith("test_"):
                counts["test functions"] += 1
                counts["property tests"] += any("given(" in ast.unparse(decorator) for decorator in node.decorator_list)
            counts["assert statements"] += isinstance(node, ast.Assert)
            counts["raises and warns"] += isinstance(node, ast.Call) and ast.unparse(node.func) in ("pytest.raises", "pytest.warns")
    return counts


def collected_items(folder: Path) -> int:
    """How many tests pytest collects in a checkout, those marked slow included and each set of parameters by itself."""
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-m", "slow or not slow", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    told = re.search(r"^(\d+) tests? collected", done.stdout, re.MULTILINE)
    if told is None:
        raise SystemExit(f"pytest cannot collect the tests in {folder}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    return int(told[1])


def table(folder: Path, items: bool = False) -> list[tuple[str, str]]:
    """The measures of a checkout: what is measured, and the value in words."""
    modules = read_modules(folder)
    graph = {name: imported_modules(module, modules) for name, module in modules.items()}
    things = [thing for module in modules.values() for thing in definitions(module)]
    lines = [
        *layout_lines(modules, circles(graph)),
        *name_lines(things),
        *inner_name_lines(modules),
        *length_lines(modules),
        *doc_lines(public_functions(modules)),
    ]
    lines += [(what, str(count)) for what, count in counts_of_tests(folder / "tests").items()]
    return [*lines, ("collected tests", str(collected_items(folder)))] if items else lines


def packages_at_top(modules: dict[str, Module]) -> list[str]:
    """The packages, and the modules that are in none, right below the root; without `__init__` and `__main__`."""
    return sorted({module.home for module in modules.values()} - {"", "__main__"})


def modules_in(modules: dict[str, Module], home: str) -> list[str]:
    """The modules of a package at top level without its own `__init__`."""
    return [name for name, module in modules.items() if module.home == home and name.count(".") > 1]


def layout_lines(modules: dict[str, Module], rings: list[list[str]]) -> list[tuple[str, str]]:
    """The measures of folders and imports."""
    long = sorted((-module.lines, name) for name, module in modules.items() if module.lines > LONG_MODULE)
    packages = sum(module.is_package for module in modules.values())
    return [
        ("at top level", listed(packages_at_top(modules))),
        ("in all", f"{packages} packages, {len(modules) - packages} modules in them"),
        ("modules in cli", str(len(modules_in(modules, "cli")))),
        ("circles of imports", listed([" and ".join(ring) for ring in rings])),
        (f"modules over {LONG_MODULE} lines", listed([f"{name} {-lines}" for lines, name in long])),
    ]


def name_lines(things: list[Definition]) -> list[tuple[str, str]]:
    """The measures of names."""
    callables = [thing for thing in things if thing.kind != "constant"]
    return [
        ("functions and classes", str(len(callables))),
        ("of them colliding", collision_text(callables)),
        ("with constants", str(len(things))),
        ("of them colliding", collision_text(things)),
        ("bare participles", listed(bare_participles(thing.name for thing in things))),
    ]


def inner_name_lines(modules: dict[str, Module]) -> list[tuple[str, str]]:
    """The measures of names that are no top-level names: of modules, methods and fields."""
    last = defaultdict(list)
    for name in modules:
        last[name.rpartition(".")[2]].append(name)
    doubles = [f"{word} ({', '.join(map(owner, places))})" for word, places in sorted(last.items()) if len(places) > 1]
    members = [name for module in modules.values() for name in member_names(module)]
    return [
        ("module names used twice", listed(doubles)),
        ("participles as module names", listed(bare_participles(last))),
        ("as methods and fields", listed(bare_participles(members))),
    ]


def member_names(module: Module) -> Iterator[str]:
    """The names of the methods and annotated fields of a module's classes."""
    for node in module.nodes:
        for part in node.body if isinstance(node, ast.ClassDef) else ():
            if isinstance(part, Function):
                yield part.name
            elif isinstance(part, ast.AnnAssign) and isinstance(part.target, ast.Name):
                yield part.target.id


def listed(words: list[str]) -> str:
    """How many words there are, and which."""
    return f"{len(words)}: {', '.join(words)}" if words else "0"


def collision_text(things: list[Definition]) -> str:
    """The share of colliding names, and each of them with its modules."""
    named = "; ".join(f"{name} ({', '.join(places)})" for name, places in collisions(things).items())
    return f"{colliding_share(things):.1%}{': ' * bool(named)}{named}"


def length_lines(modules: dict[str, Module]) -> list[tuple[str, str]]:
    """The measures of functions, whose lines are those of `body_lengths`."""
    lengths = {place: length for module in modules.values() for place, length in body_lengths(module).items()}
    longest = max(lengths, key=lambda place: lengths[place], default="")
    return [
        ("functions and methods", str(len(lengths))),
        ("lines of code in a body", f"median {quantile(lengths.values(), 0.5)}, p90 {quantile(lengths.values(), 0.9)}"),
        ("longest body", f"{lengths.get(longest, 0)}: {longest}"),
    ]


def doc_lines(functions: dict[str, Function]) -> list[tuple[str, str]]:
    """The measures of what public functions say of themselves."""
    taking = {place: function for place, function in functions.items() if takes_arguments(function)}
    lines = [docstring_lines(function) for function in functions.values()]
    return [
        ("public functions", f"{len(functions)}, {len(taking)} with arguments"),
        ("of them with Args", str(sum(map(documents_arguments, taking.values())))),
        ("with Returns", str(sum(has_section(function, "Returns") for function in functions.values()))),
        ("with Raises", str(sum(has_section(function, "Raises") for function in functions.values()))),
        ("lines of a docstring", f"median {median(lines) if lines else 0:g}, p90 {quantile(lines, 0.9)}"),
    ]


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description="Measures the house: packages, imports, names, functions, documentation, tests.")
    parser.add_argument("folder", nargs="?", type=Path, default=Path(__file__).parents[2], help="the checkout; this one unless given")
    parser.add_argument("--items", action="store_true", help="also let pytest collect the tests, and count them with their parameters")
    options = parser.parse_args()
    lines = table(options.folder, options.items)
    width = max(len(what) for what, _ in lines)
    for what, value in lines:
        print(f"{what:<{width}}  {value}")


if __name__ == "__main__":
    main()
