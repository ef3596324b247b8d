"""Names on the command line: `NAME[=WEIGHT][,option=value,...]`, looked up in a dict of functions or in the user's own file.

The same sentence is understood wherever a name is asked for: `pgd,steps=50,restarts=10`, `sagr=0.1,rho=0.3`, `mine.py:attack,steps=5`.
"""

from __future__ import annotations

import difflib
import importlib.util
import inspect
import math
import re
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from traceback import extract_tb
from types import ModuleType
from typing import Any, TypeVar

from robench.core.code_permission import ask_before_code
from robench.core.errors import InputError
from robench.core.files import is_existing_file
from robench.core.synonyms import OTHER_OPTION_HINTS, our_names_for

T = TypeVar("T")
ON_SEPARATOR = " on "  # between what is measured and what gives its images
LONGEST_CHAIN = 20  # recipes, each on the images of the next
KIND_WORDS = {  # the words by which a recipe may say its kind, as in probe:mine.py:flip
    **{kind: kind for kind in ("attack", "probe", "corruption", "method", "score", "objective", "regulariser")},
    "regularizer": "regulariser",
}
SIGNATURES = {  # what a function of the user's own is called with; its options are keyword-only
    "attack": ("model", "x", "y", "threat", "draws"),
    "probe": ("model", "x", "y", "draws"),
    "regulariser": ("model", "batch"),
    "objective": (),
    "method": ("model", "x", "target", "draws"),
    "score": ("explained",),
    "corruption": ("x", "severity", "draws"),
    "data set": ("split", "data_dir"),
    "layout": ("path", "split", "name", "asked"),
    "tracker": ("run",),
}
WEIGHTLESS = ("attack", "probe", "corruption", "method", "score", "data set", "layout", "tracker")
DENOMINATORS = (3, 6, 7, 9, 255)  # denominators of fractions that people write and that no short decimal number equals
OPTION_TYPES: dict[str, tuple[tuple[type, ...], str]] = {  # what a value of an option of such a kind may be, and what that is called
    "bool": ((bool,), "true or false"),
    "int": ((int,), "a whole number"),
    "float": ((int, float), "a number"),
}
USER_MODULES: dict[tuple[str, bytes], ModuleType] = {}  # of the user's files, by path and content
USER_MODULE_PREFIX = "robench_user_"  # how the modules of the user's files are named


@dataclass(frozen=True)
class Recipe:
    """A name with its weight and its options, as read from one sentence.

    Attributes:
        name: a name in a table of functions, or `FILE.py:FUNCTION`, or `transfer:MODEL`.
        weight: the number behind `NAME=`, None where there is none.
        options: option -> value.
        kind: "attack", "probe", "corruption", "method", "score", "objective" or "regulariser" where the sentence says it, else "".
        on: the recipe whose images it is given, or None.
    """

    name: str
    weight: float | None = None
    options: dict[str, Any] = field(default_factory=dict)
    kind: str = ""
    on: Recipe | None = None

    @property
    def label(self) -> str:
        """The name without the folders of a user's file: what tables and CSV call the recipe."""
        what, colon, file = self.name.rpartition("transfer:")
        return what + colon + Path(file).name if colon or ".py:" in self.name else self.name

    @property
    def title(self) -> str:
        """The label with that of the recipe whose images it is given."""
        severity_suffix = f"-{self.options['severity']}" if "severity" in self.options else ""
        return f"{self.label}{severity_suffix}{ON_SEPARATOR}{self.on.title}" if self.on else f"{self.label}{severity_suffix}"


def parse_recipe(sentence: str) -> Recipe:
    """Reads `[KIND:]NAME[=WEIGHT][,option=value,...][ on RECIPE]`.

    Args:
        sentence: the text; numbers and fractions in it become numbers, true and false become booleans.

    Raises:
        InputError: for a sentence of another form, and for an option that is given twice.

    Example:
        >>> recipe = parse_recipe("pgd,steps=50 on fog,severity=3")
        >>> recipe.name, recipe.options, recipe.on.name
        ('pgd', {'steps': 50}, 'fog')
    """
    first, chained, second = sentence.partition(ON_SEPARATOR)
    if second.count(ON_SEPARATOR) > LONGEST_CHAIN:
        raise InputError(f"cannot read {sentence[:60]!r}...: it says on more than {LONGEST_CHAIN} times")
    if chained:
        if not first.strip() or not second.strip():
            raise InputError(f"cannot read {sentence!r}: write what is measured, then on, then what gives the images: pgd-20 on fog")
        return replace(parse_recipe(first), on=parse_recipe(second))
    head, *rest = sentence.split(",")
    name, sign, weight = head.partition("=")
    options: dict[str, Any] = {}
    for part in rest:
        key, equals, value = part.partition("=")
        if not key.strip() or not equals or not value.strip():
            raise InputError(f"cannot read {part!r} in {sentence!r}: options are written key=value, parted by commas")
        key = key.strip().replace("-", "_")
        if key in options:
            raise InputError(f"{sentence!r} gives {key} twice: give each option once")
        options[key] = parse_literal(value.strip())
    number = parse_literal(weight.strip()) if sign else None
    if not name.strip() or (sign and (isinstance(number, (bool, str)) or number is None)):
        raise InputError(f"cannot read {sentence!r}: write NAME or NAME=WEIGHT, then options as key=value, parted by commas")
    kind, bare = kind_and_name(name.strip())
    return Recipe(bare, None if number is None else float(number), options, kind)


def kind_and_name(name: str) -> tuple[str, str]:
    """The kind that a name begins with, "" for none, and the rest: probe:mine.py:flip. Raises InputError for a word that is no kind."""
    word, colon, rest = name.partition(":")
    if colon and word in KIND_WORDS and rest.strip():
        return KIND_WORDS[word], rest.strip()
    file = Path(name.rpartition(":")[0])
    if ".py:" in rest and word.isalpha() and len(word) > 1 and word != "transfer" and not is_existing_file(file):  # one letter is a drive
        completions = [kind for kind in KIND_WORDS if kind.startswith(word)]
        raise InputError(
            f"unknown kind {word!r} of {name!r}{f': did you mean {completions[0]!r}?' if completions else did_you_mean(word, KIND_WORDS)}"
        )
    return "", name


def split_recipes(sentences: Iterable[str]) -> list[str]:
    """The sentences of an option that may be repeated; those that were joined by commas are separated.

    A part with an equals sign is an option of the sentence before it.

    Args:
        sentences: what the user wrote, one string for each time the option was given.

    Example:
        >>> split_recipes(["saliency,occlusion,block=2"])
        ['saliency', 'occlusion,block=2']
    """
    recipes: list[str] = []
    for sentence in sentences:
        first, *rest = sentence.split(",")
        recipes.append(first)
        for part in rest:
            if "=" in part:
                recipes[-1] += f",{part}"
            else:
                recipes.append(part)
    return recipes


def parse_literal(text: str) -> Any:
    """The number, fraction, boolean or plain word that a text spells.

    Args:
        text: such as "20", "8/255", "true" or "linf".
    """
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    for kind in (whole_number, float, parse_fraction):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def whole_number(text: str) -> float:
    """The int that a text spells; inf for one beyond the range of floats, as for 1e400. ValueError for anything else."""
    number = float(text)
    return int(text) if math.isfinite(number) else number


def parse_fraction(text: str) -> float:
    """A number or a quotient of two, such as 8/255, as a float.

    Args:
        text: the number as it is written.

    Raises:
        ValueError: for anything else, also for 8/0 and numbers that are not finite.
    """
    above, slash, below = text.partition("/")
    try:
        number = float(above) / (float(below) if slash else 1.0)
    except ValueError:
        raise ValueError(f"{text!r} is not a number or a fraction such as 8/255") from None
    except ZeroDivisionError:
        raise ValueError(f"{text!r} divides by zero") from None
    if not math.isfinite(number):
        raise ValueError(f"{text!r} is not a finite number")
    return number


def eps_text(eps: float) -> str:
    """A radius as people write it: 0.3 and 0.05 as such, 8/255, 0.25/255; others with six digits. The counterpart of `parse_fraction`.

    Args:
        eps: the radius in pixel units.

    Example:
        >>> eps_text(8 / 255), eps_text(0.5)
        ('8/255', '0.5')
    """
    short, steps = f"{eps:g}", f"{255 * eps:.4g}"
    if float(short) == eps or float(steps) > 255 or abs(float(steps) - 255 * eps) > 1e-5 * float(steps) or ("." in steps and eps > 0.2):
        return short
    return f"{steps}/255"


def value_text(value: object) -> str:
    """A value as one writes it: numbers short but exact, 1.0 as 1, thirds and 255ths and the like as fractions, true and false.

    Args:
        value: a boolean, a number, or anything that str() takes.
    """
    if isinstance(value, bool):
        return str(value).lower()
    if not isinstance(value, float):
        return str(value)
    short, whole = (re.sub(r"e([+-])0*", r"e\1", text).replace("e+", "e") for text in (f"{value:g}", repr(value)))  # a file name loses a +
    if float(short) == value or not math.isfinite(value):
        return short
    parted = (f"{round(parts * value)}/{parts}" for parts in DENOMINATORS if abs(value) < 100 and round(parts * value) / parts == value)
    steps = f"{255 * value:.4g}/255"
    return next(parted, steps if math.isfinite(255 * value) and parse_fraction(steps) == value else whole)


def recipe_text(recipe: Recipe) -> str:
    """The sentence from which `parse_recipe` reads a recipe.

    Args:
        recipe: any recipe.
    """
    pairs = [(recipe.name, recipe.weight)] if recipe.weight is not None else []
    words = [f"{key}={exact_value_text(value)}" for key, value in (*pairs, *recipe.options.items())]
    kind = f"{recipe.kind}:" if recipe.kind else ""
    return kind + ",".join(words if pairs else [recipe.name, *words]) + (f"{ON_SEPARATOR}{recipe_text(recipe.on)}" if recipe.on else "")


def exact_value_text(value: object) -> str:
    """A value as a recipe spells it, without rounding."""
    return str(value).lower() if isinstance(value, bool) else repr(value) if isinstance(value, float) else str(value)


def lookup(name: str, table: Mapping[str, T], what: str) -> T:
    """The entry of a table under a name.

    Args:
        name: what the user wrote.
        table: name -> entry.
        what: what the entries are, such as "attack", for the error.

    Raises:
        InputError: if there is none, with the nearest name that there is.
    """
    if name in table:
        return table[name]
    elsewhere = OTHER_OPTION_HINTS.get(what, {}).get(name)
    raise InputError(f"unknown {what} {name!r}{f': {elsewhere}' if elsewhere else did_you_mean(str(name), table)}")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The end of a sentence about an unknown name: our name for a name of the field, the nearest known one, or all of them.

    Args:
        name: what the user wrote.
        known: the names that there are.
    """
    names = sorted(known)
    if not names:
        return ": there are none"
    ours, same = our_names_for(name, names)
    if ours:
        words = " or ".join(map(repr, ours))
        return f": did you mean {words}?" if same else f": there is none here, and {words} comes nearest"
    near = difflib.get_close_matches(name, names, 1, 0.5)
    return f": did you mean {near[0]!r}?" if near else f": choose one of {', '.join(names)}"


def resolve(recipe: Recipe, table: Mapping[str, Callable[..., Any]], what: str) -> Callable[..., Any]:
    """The function that a recipe names, with its options bound.

    Args:
        recipe: names an entry of `table`, or a function in the user's `file.py:function`; that file is run.
        table: name -> function, whose keyword-only arguments are its options.
        what: the kind that is asked for, such as "attack".

    Returns:
        A functools.partial.

    Raises:
        InputError: for an unknown name, for an option that the function does not have or that its name already settles (`pgd-20` has 20
            steps), for one that needs a value and has none, and for a recipe of another kind.
    """
    refuse_unfit_recipe(recipe, what)
    function = user_function(recipe, what) if ".py:" in recipe.name else lookup(recipe.name, table, what)
    options, fixed_options = options_of(function), getattr(function, "keywords", {})
    for key in recipe.options:
        if key not in options:
            hint = did_you_mean(key, options) if options else ", it has none"
            if {key, key.replace("_", "-")} & set(table):
                hint = f": to ask for the {what} {key.replace('_', '-')!r} as well, repeat the option"
            raise InputError(f"{what} {recipe.name!r} has no option {key!r}{hint}")
        if key in fixed_options:
            raise InputError(f"{what} {recipe.name!r} means {key}={fixed_options[key]}: name the general {what} to choose {key} yourself")
        if ".py:" in recipe.name:
            refuse_option_type(recipe, key, function)
    bound = partial(function, **recipe.options)
    missing = [key for key, value in options_of(bound).items() if value is inspect.Parameter.empty]
    if missing:
        raise InputError(f"{what} {recipe.name!r} needs a value for its option {missing[0]!r}: write {recipe.name},{missing[0]}=VALUE")
    return bound


def refuse_unfit_recipe(recipe: Recipe, what: str) -> None:
    """Raises InputError where a recipe says that it is of another kind than is asked for, or says more than such a one has."""
    if recipe.kind and recipe.kind != what:
        raise InputError(
            f"{recipe.kind}:{recipe.label} says that it is {with_article(recipe.kind)}, and {with_article(what)} is asked for here"
        )
    if recipe.on is not None:
        raise InputError(
            f"{recipe.title}: {with_article(what)} is not measured on the images of another here: leave{ON_SEPARATOR}{recipe.on.title} out"
        )
    if recipe.weight is not None and what in WEIGHTLESS:
        raise InputError(
            f"{recipe.label}={recipe.weight:g}: {with_article(what)} has no weight, which only a regulariser has: leave it out"
        )


def with_article(what: str) -> str:
    """A word with its article.

    Args:
        what: such as "attack".

    Example:
        >>> with_article("attack"), with_article("probe")
        ('an attack', 'a probe')
    """
    return f"{'an' if what[0] in 'aeiou' else 'a'} {what}"


def refuse_option_type(recipe: Recipe, key: str, function: Callable[..., Any]) -> None:
    """Raises InputError where the value of an option of the user's own function is of another kind than its annotation or its default."""
    value, parameter = recipe.options[key], inspect.signature(function).parameters[key]
    annotation = getattr(parameter.annotation, "__name__", parameter.annotation)
    kind = annotation if annotation in OPTION_TYPES else type(parameter.default).__name__
    allowed_types, words = OPTION_TYPES.get(kind, ((object,), ""))
    if type(value) not in allowed_types and object not in allowed_types:
        default = "" if parameter.default is inspect.Parameter.empty else f", as its default {parameter.default!r} is"
        raise InputError(f"{key} of {recipe.label} must be {words}{default}, not {value!r}")


def user_function(recipe: Recipe, what: str) -> Callable[..., Any]:
    """The user's own function that a recipe names. Raises InputError where it cannot be called as an attack, a probe, ... is."""
    function, argument_names = function_from_file(recipe.name), SIGNATURES.get(what)
    if argument_names is None or takes_arguments(function, argument_names):
        return function
    raise InputError(f"{recipe.label}{inspect.signature(function)} cannot be used: {what}s are called as {signature_text(what)}")


def signature_text(what: str) -> str:
    """How a function of the user's own is called."""
    return f"({', '.join([*SIGNATURES[what], '*', 'options'])})"


def takes_arguments(function: Callable[..., Any], names: tuple[str, ...]) -> bool:
    """Whether a function can be called with so many arguments by place; True where it does not tell (builtins).

    Args:
        function: any callable.
        names: the arguments; only their number counts.
    """
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:
        return True
    places = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    most = math.inf if any(p.kind is p.VAR_POSITIONAL for p in parameters) else len(places)
    return sum(p.default is p.empty for p in places) <= len(names) <= most


def parameter_names(function: Callable[..., Any]) -> tuple[str, ...]:
    """The names of a function's parameters; none for a builtin that does not tell.

    Args:
        function: any callable.
    """
    try:
        return tuple(inspect.signature(function).parameters)
    except ValueError:
        return ()


def positional_names(function: Callable[..., Any]) -> tuple[str, ...]:
    """The names of the arguments that a function takes by place; none for a builtin that does not tell.

    Args:
        function: any callable.
    """
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:
        return ()
    return tuple(p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD))


def options_of(function: Callable[..., Any]) -> dict[str, Any]:
    """The options of a function, which are its keyword-only arguments: name -> default; inspect.Parameter.empty where there is none.

    Args:
        function: any callable; options that a partial has bound have the bound values.
    """
    return {p.name: p.default for p in inspect.signature(function).parameters.values() if p.kind is p.KEYWORD_ONLY}


def setting_text(function: Callable[..., Any]) -> str:
    """Every option of a resolved function as `key=value` words, given or by default: the form that the CSV carries.

    Args:
        function: a function with its options bound; values that are no plain numbers or words are left out.
    """
    plain = {key: value for key, value in options_of(function).items() if value is None or isinstance(value, (bool, int, float, str))}
    return " ".join(f"{key}={value}" for key, value in plain.items())


def function_from_file(reference: str) -> Callable[..., Any]:
    """The function that `file.py:function` names. The file is run once as long as its content is the same.

    Args:
        reference: the path of a Python file, a colon, and the name of a function in it.

    Raises:
        InputError: where the file is not there, fails, or has no such function.
    """
    function = object_from_file(reference)
    if not callable(function):
        path, _, name = reference.rpartition(":")
        raise InputError(f"{path} has no function {name!r}")
    return function  # type: ignore[no-any-return]


def object_from_file(reference: str) -> Any:
    """What `file.py:name` names, None where the file has nothing of that name. The file is run once as long as its content is the same.

    Args:
        reference: the path of a Python file, a colon, and a name in it.

    Raises:
        InputError: where the file is not there, or fails.
    """
    ask_before_code(reference)
    path, _, name = reference.rpartition(":")
    return getattr(user_module(Path(path)), name, None)


def user_module(path: Path) -> ModuleType:
    """The module a Python file defines, run once as long as the file is the same."""
    key = (str(path.resolve()), path.read_bytes() if is_existing_file(path) else b"")
    if key not in USER_MODULES:
        USER_MODULES[key] = run_user_file(path)
    return USER_MODULES[key]


def run_user_file(path: Path) -> ModuleType:
    """The module a Python file defines; runs the file. Its folder is importable meanwhile, as for a script."""
    if not is_existing_file(path):
        raise InputError(f"no such file: {path}")
    spec = importlib.util.spec_from_file_location(USER_MODULE_PREFIX + path.stem, path)
    if spec is None or spec.loader is None:
        raise InputError(f"{path} is not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    sys.path.insert(0, str(path.resolve().parent))
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        line = next((f" in line {frame.lineno}" for frame in reversed(extract_tb(error.__traceback__)) if frame.filename == str(path)), "")
        raise InputError(f"{path} failed while it was loaded{line}: {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove(str(path.resolve().parent))
    return module
