"""Grids of settings: the cells that the sentence of a sweep spells, and what each changes in a training.

`lambda=0.03:0.1:0.3,rho=0.1:1:10` spells a grid of nine cells: keys are parted by commas, their values by colons. What a key means is
settled by the loss that is trained with: `lambda` is the weight of the regulariser, then there are its options, `warmup` and `drops`, the
options of the objective, and the settings of the training. `objective` and `reg` may be keys themselves.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, NamedTuple

from robench.core import checks as options
from robench.core.errors import InputError
from robench.core.recipes import (
    Recipe,
    did_you_mean,
    function_from_file,
    lookup,
    options_of,
    parse_literal,
    parse_recipe,
    recipe_text,
    value_text,
)
from robench.objectives import OBJECTIVES, REGULARIZERS
from robench.training.presets import PRESETS
from robench.training.settings import objective_sentence, plan_of, resolved_settings

WEIGHT_KEY, WEIGHT_OPTIONS = "lambda", ("warmup", "drops")
REGULARISER, OBJECTIVE, TRAINING = "regulariser", "objective", "train"
LOSS_KEYS = ("objective", "reg")
SEED_KEYS = ("seed", f"{TRAINING}.seed")  # which make no settings, but several trainings of one
SWEEP_FORM = "write KEY=VALUE:VALUE, the keys parted by commas, such as lambda=0.03:0.1:0.3,rho=0.1:1"
SETTINGS = PRESETS["small"]


@dataclass(frozen=True)
class SweepCell:
    """One cell of a grid.

    Attributes:
        values: its keys with their values, as the user named them.
        overrides: the keyword arguments of `train` that they become.
    """

    values: dict[str, Any]
    overrides: dict[str, Any]

    @property
    def setting(self) -> str:
        """The cell as key=value words, the form that the CSV carries."""
        return " ".join(f"{key}={value_text(value)}" for key, value in self.values.items())

    @property
    def name(self) -> str:
        """The cell as the stem of a file, such as lambda-0.1_rho-1."""
        plain = "_".join(f"{key}-{value_text(value)}" for key, value in self.values.items())
        return "".join(letter if letter.isalnum() or letter in "-_." else "-" for letter in plain)


class KeyOwner(NamedTuple):
    """Whose keys are meant.

    Attributes:
        what: "regulariser", "objective" or "train".
        name: its name in the sentence of the sweep.
        keys: the keys that it has.
    """

    what: str
    name: str
    keys: Sequence[str]


def grid_cells(sentence: str) -> list[dict[str, Any]]:
    """The cells that a sentence spells, the last key changing fastest.

    Args:
        sentence: keys parted by commas, their values by colons; values are numbers, fractions, inf, true, false or words.

    Raises:
        InputError: for parts that are empty or cannot be read, and for a key or a value that is given twice.

    Example:
        >>> grid_cells("lambda=0.1:1,epochs=5")
        [{'lambda': 0.1, 'epochs': 5}, {'lambda': 1, 'epochs': 5}]
    """
    axes: dict[str, list[Any]] = {}
    for part in sentence.split(","):
        key, equals, values = (word.strip() for word in part.partition("="))
        words = [word.strip() for word in values.split(":")]
        owner, dot, option = key.rpartition(".")
        key = owner + dot + option.replace("-", "_")
        if not option or not equals or not all(words) or any(character.isspace() for character in key + "".join(words)):
            raise InputError(f"cannot read {part.strip()!r} in the sweep {sentence!r}: {SWEEP_FORM}")
        if key in axes:
            raise InputError(f"the sweep {sentence!r} names {key} twice: give all its values at once, parted by colons")
        axes[key] = [value_of(key, word) for word in words]
        twice = [word for place, word in enumerate(words) if value_text(axes[key][place]) in map(value_text, axes[key][:place])]
        if twice:
            raise InputError(f"the sweep {sentence!r} gives {key} the value {twice[0]} twice")
    return [dict(zip(axes, values, strict=True)) for values in product(*axes.values())]


def seed_key_of(sentence: str) -> str:
    """The key of a grid that is the seed of the training, as it is written; "" without one.

    Args:
        sentence: keys parted by commas, their values by colons.
    """
    keys = grid_cells(sentence)[0]
    return next((key for key in keys if key in SEED_KEYS), "")


def value_of(key: str, word: str) -> Any:
    """The value that a word of a grid spells."""
    value = parse_literal(word)
    if isinstance(value, float) and math.isnan(value):
        raise InputError(f"{key} cannot be {word}: a value of a sweep is a number, a fraction, inf or a word")
    return value


def cell_overrides(cell: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """The keyword arguments of `train` that a cell of a grid becomes: reg, objective, seed, or keys of a preset.

    A key is looked for among the options of the regularisers, with `lambda`, their weight, `warmup` and `drops`; among those of the
    objective; and among the training's settings with `seed`. One that several of them have is written with its owner: `sagr.lambda`,
    `sagr.norm`, `pgd-at.steps`, `train.norm`.

    Args:
        cell: the values of its keys.
        settings: keys of a preset for what is trained otherwise: `objective`, where None stands for the base of the regularisers, and
            `reg`.

    Raises:
        InputError: for a key that nothing or several have, and for a value that cannot be.
    """
    overrides: dict[str, Any] = {key: setting_value(key, cell[key]) for key in LOSS_KEYS if key in cell}
    objective, regs = objective_and_regularizers({**settings, **overrides})
    owners = owners_of(objective, regs)
    for key in [key for key in cell if key not in LOSS_KEYS]:
        owner, option = owner_of_key(key, owners)
        if owner.what == TRAINING:
            overrides[option] = setting_value(option, cell[key])
        elif owner.what == OBJECTIVE:
            objective = changed_recipe(objective, option, cell[key])
            overrides["objective"] = recipe_text(objective)
        else:
            regs[owner.name] = changed_recipe(regs[owner.name], option, cell[key])
            overrides["reg"] = tuple(map(recipe_text, regs.values()))
    return overrides


def objective_and_regularizers(settings: Mapping[str, Any]) -> tuple[Recipe, dict[str, Recipe]]:
    """The objective and the regularisers by name, as recipes; InputError where a regulariser is given twice."""
    sentences = settings.get("reg") or ()
    regs = {recipe.label: recipe for recipe in map(parse_recipe, sentences)}
    if len(regs) < len(sentences):
        raise InputError("a regulariser is given twice: one weight and one set of options a name")
    return parse_recipe(objective_sentence(settings.get("objective"), sentences)[0]), regs


def owners_of(objective: Recipe, regs: Mapping[str, Recipe]) -> list[KeyOwner]:
    """Who may own a key: the regularisers, then the objective and the training."""
    keys = {label: [WEIGHT_KEY, *WEIGHT_OPTIONS, *recipe_options(recipe, REGULARIZERS, REGULARISER)] for label, recipe in regs.items()}
    return [
        *(KeyOwner(REGULARISER, label, its) for label, its in keys.items()),
        KeyOwner(OBJECTIVE, objective.label, recipe_options(objective, OBJECTIVES, OBJECTIVE)),
        KeyOwner(TRAINING, TRAINING, [*SETTINGS, "seed"]),
    ]


def recipe_options(recipe: Recipe, known: Mapping[str, Callable[..., Any]], what: str) -> list[str]:
    """The options of the function that a recipe names."""
    return list(options_of(function_from_file(recipe.name) if ".py:" in recipe.name else lookup(recipe.name, known, what)))


def owner_of_key(key: str, owners: Sequence[KeyOwner]) -> tuple[KeyOwner, str]:
    """The owner of a key and what it calls it; InputError where there is none or are several."""
    name, _, option = key.rpartition(".")
    having = [owner for owner in owners if option in owner.keys and name in ("", owner.name)]
    if len(having) == 1:
        return having[0], option
    if having:
        raise InputError(f"what {key!r} means in the sweep is not clear: write {' or '.join(f'{owner.name}.{option}' for owner in having)}")
    if option == WEIGHT_KEY and REGULARISER not in [owner.what for owner in owners]:
        raise InputError(f"there is no regulariser whose weight {key!r} could be: name one with --reg, or sweep the objective's options")
    if name and name not in [owner.name for owner in owners]:
        raise InputError(f"the sweep trains nothing that is called {name!r}{did_you_mean(name, [owner.name for owner in owners])}")
    known_keys = {f"{owner.name}.{one}" if name else one for owner in owners for one in owner.keys if name in ("", owner.name)}
    raise InputError(f"unknown key {key!r} of a sweep{did_you_mean(key, known_keys)}")


def changed_recipe(recipe: Recipe, option: str, value: Any) -> Recipe:
    """A recipe with another weight or another value of an option."""
    if option == WEIGHT_KEY:
        return replace(recipe, weight=options.number_option(f"{WEIGHT_KEY} of {recipe.name}", value))
    return replace(recipe, options={**recipe.options, option: value})


def setting_value(key: str, value: Any) -> Any:
    """A value for a setting of the training, if it is of the kind that the setting has; `reg` becomes a tuple of one sentence."""
    usual = SETTINGS.get(key, 0)
    if isinstance(usual, bool):
        return options.switch_option(key, value)
    if key == "held_out":  # a number of images, or a share
        return options.number_option(key, value) if isinstance(value, float) else options.whole_option(key, value, least=0)
    if isinstance(usual, int):
        return options.whole_option(key, value, least=0)
    if isinstance(usual, float):
        return options.number_option(key, value)
    if isinstance(usual, tuple) and isinstance(value, tuple):
        return value
    if not isinstance(value, str):
        raise InputError(f"{key} must be a word, not {value_text(value)}")
    return (value,) if isinstance(usual, tuple) else value


def sweep_cells(sentence: str, settings: dict[str, Any]) -> list[SweepCell]:
    """The cells of a sweep, each tried as far as that goes without training: hours are not to end at a misspelt option.

    Args:
        sentence: keys parted by commas, their values by colons.
        settings: keys of a preset for what is trained otherwise, `objective` and `reg` among them.

    Raises:
        InputError: for a sentence, a key or a value that cannot be, and for two cells of one file name.
    """
    cells = [SweepCell(values, cell_overrides(values, settings)) for values in grid_cells(sentence)]
    for cell in cells:
        cell_settings = {key: value for key, value in (settings | cell.overrides).items() if key != "seed"}
        plan_of(resolved_settings("small", cell_settings)[0], 0, None)
    stems = [cell.name for cell in cells]
    twins = [cell.setting for cell in cells if stems.count(cell.name) > 1]
    if twins:
        raise InputError(f"two cells of the sweep would have one file name: {twins[0]} and {twins[1]}")
    return cells


def axes_of(cells: Sequence[SweepCell]) -> dict[str, list[str]]:
    """The keys of a grid with their values as words."""
    return {key: list(dict.fromkeys(value_text(cell.values[key]) for cell in cells)) for key in cells[0].values}
