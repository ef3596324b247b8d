"""Sweeps: one training for each cell of a grid, in a folder in which a broken-off sweep goes on where it stopped.

`lambda=0.03:0.1:0.3,rho=0.1:1:10` spells a grid of nine cells: keys are parted by commas, their values by colons. What a key means is
settled by the method that is trained: `lambda` is the weight of the regulariser, then there are its options, `warmup` and `drops`, the
options of the objective, and the settings of the training. `objective` and `reg` may be keys themselves.

Which cell is best is a choice, so cells are measured on held-out images: chosen on test images, it would look better than it is.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path
from typing import Any, NamedTuple

from robench.core import checks as options
from robench.core.errors import DivergedError, InputError
from robench.core.files import prepare_folder, write_whole
from robench.core.folders import LOCK, Destination, hold_lock_in
from robench.core.fronts import front_membership
from robench.core.inputs import PathLike
from robench.core.journal import Journal, has_finished, header_difference
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
from robench.core.rows import Row
from robench.objectives import OBJECTIVES, REGULARIZERS
from robench.report.figures.training import FrontPoint
from robench.results.files import frame_of_entries, read_rows
from robench.training.presets import PRESETS
from robench.training.settings import objective_sentence, plan_of, resolved_settings

WEIGHT_KEY, WEIGHT_OPTIONS = "lambda", ("warmup", "drops")
REGULARISER, OBJECTIVE, TRAINING = "regulariser", "objective", "train"
METHOD_KEYS = ("objective", "reg")
HEADER_FILE, ROWS_FILE = "sweep.json", "rows.csv"
HELD_OUT_SPLIT = "held-out"
SWEEP_FORM = "write KEY=VALUE:VALUE, the keys parted by commas, such as lambda=0.03:0.1:0.3,rho=0.1:1"
SETTINGS = PRESETS["small"]


@dataclass(frozen=True)
class SweepCell:
    """One cell of a grid: its keys with their values as the user named them, and the keyword arguments of `train` that they become."""

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


@dataclass(frozen=True)
class FinishedCell:
    """A cell that was trained: its accuracies, seconds, chosen epoch and failures as rows, and whether that was in this run."""

    cell: SweepCell
    rows: list[Row]
    fresh: bool

    @property
    def accuracies(self) -> dict[str, Row]:
        """The accuracies by probe, in the order in which they were measured; none where the training diverged."""
        return {row.probe: row for row in self.rows if row.metric == "accuracy"}

    def number(self, metric: str) -> float:
        """Another number of the training: seconds, epoch, flags, and 1 for an alarm or diverged; nan where there is none."""
        return next((row.value for row in self.rows if row.metric == metric), math.nan)


class KeyOwner(NamedTuple):
    """Whose keys are meant: what it is (a regulariser, the objective or the training), its name in the sentence, and which keys it has."""

    what: str
    name: str
    keys: Sequence[str]


TrainOne = Callable[[SweepCell, Path], Mapping[str, Any]]


def grid_cells(sentence: str) -> list[dict[str, Any]]:
    """The cells that a sentence such as `lambda=0.03:0.1,eps=2/255:4/255` spells, the last key changing fastest.

    Values are numbers, fractions, inf, true, false or words. InputError for parts that are empty or cannot be read, and for a key or a
    value that is given twice.
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


def value_of(key: str, word: str) -> Any:
    """The value that a word of a grid spells."""
    value = parse_literal(word)
    if isinstance(value, float) and math.isnan(value):
        raise InputError(f"{key} cannot be {word}: a value of a sweep is a number, a fraction, inf or a word")
    return value


def cell_overrides(cell: Mapping[str, Any], settings: Mapping[str, Any]) -> dict[str, Any]:
    """The keyword arguments of `train` that a cell of a grid becomes: reg, objective, seed, or keys of a preset.

    settings  what is trained otherwise, keys of a preset: `objective`, where None stands for the base of the regularisers, and `reg`

    A key is looked for among the options of the regularisers, with `lambda`, their weight, `warmup` and `drops`; among those of the
    objective; and among the training's settings with `seed`. One that several of them have is written with its owner: `sagr.lambda`,
    `sagr.norm`, `pgd-at.steps`, `train.norm`. InputError for a key that nothing or several have, and for a value that cannot be.
    """
    found: dict[str, Any] = {key: setting_value(key, cell[key]) for key in METHOD_KEYS if key in cell}
    objective, regs = objective_and_regularizers({**settings, **found})
    owners = owners_of(objective, regs)
    for key in [key for key in cell if key not in METHOD_KEYS]:
        owner, option = owner_of_key(key, owners)
        if owner.what == TRAINING:
            found[option] = setting_value(option, cell[key])
        elif owner.what == OBJECTIVE:
            objective = changed_recipe(objective, option, cell[key])
            found["objective"] = recipe_text(objective)
        else:
            regs[owner.name] = changed_recipe(regs[owner.name], option, cell[key])
            found["reg"] = tuple(map(recipe_text, regs.values()))
    return found


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
    known = {f"{owner.name}.{one}" if name else one for owner in owners for one in owner.keys if name in ("", owner.name)}
    raise InputError(f"unknown key {key!r} of a sweep{did_you_mean(key, known)}")


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
    if not isinstance(value, str):
        raise InputError(f"{key} must be a word, not {value_text(value)}")
    return (value,) if isinstance(usual, tuple) else value


def sweep_cells(sentence: str, settings: dict[str, Any]) -> list[SweepCell]:
    """The cells of a sweep, each tried as far as that goes without training: hours are not to end at a misspelt option.

    settings  as in `cell_overrides`
    """
    cells = [SweepCell(values, cell_overrides(values, settings)) for values in grid_cells(sentence)]
    for cell in cells:
        given = {key: value for key, value in (settings | cell.overrides).items() if key != "seed"}
        plan_of(resolved_settings("small", given)[0], 0, None)
    stems = [cell.name for cell in cells]
    twins = [cell.setting for cell in cells if stems.count(cell.name) > 1]
    if twins:
        raise InputError(f"two cells of the sweep would have one file name: {twins[0]} and {twins[1]}")
    return cells


def sweep(
    cells: Sequence[SweepCell],
    train_one: TrainOne,
    *,
    folder: PathLike | Destination,
    about: Mapping[str, Any],
    suite: str = "",
    measure: str = HELD_OUT_SPLIT,
    resume: bool = False,
) -> Iterator[FinishedCell]:
    """Trains every cell and yields it when its numbers are on the disk; those of an earlier run come first, untrained.

    train_one  train_one(cell, FILE.pt) trains with cell.overrides, writes FILE.pt and returns the meta of `Trained`
    folder     gets <cell>.pt of each cell, rows.csv (rewritten whole after each), sweep.json and the state; it is locked meanwhile, unless
               the caller holds it already as a Place
    about      what else the numbers depend on, as plain JSON values: data, preset, settings, seed
    suite      what runs at the end; its verdict, else the last probe, is the robust accuracy
    measure    the images of the numbers, "held-out" or "test": goes into the rows
    resume     go on with an unfinished sweep

    A training that diverges is a result: the sweep goes on. InputError where the folder holds another sweep or other results, or an
    unfinished sweep but `resume` is false.
    """
    if isinstance(folder, Destination):
        yield from sweep_in_folder(cells, train_one, folder.work, sweep_header(cells, suite, measure, about), measure, resume)
        return
    path = Path(folder)
    with hold_lock_in(path, LOCK, path):
        yield from sweep_in_folder(cells, train_one, path, sweep_header(cells, suite, measure, about), measure, resume)


def sweep_in_folder(
    cells: Sequence[SweepCell], train_one: TrainOne, folder: Path, what: Mapping[str, Any], measure: str, resume: bool
) -> Iterator[FinishedCell]:
    """What `sweep` does in a folder that nobody else writes to; `what` says which sweep it is."""
    refuse_other_sweep(prepare_folder(folder), what)
    if not resume and has_finished(folder):
        raise InputError(f"{folder} holds a finished sweep: resume it to have its numbers, or choose another folder")
    journal = Journal(folder, what, resume=resume, adds=adds_cells)
    known = {entry["setting"]: [Row(**row) for row in entry["rows"]] for entry in journal.entries}
    done = [FinishedCell(cell, known[cell.setting], fresh=False) for cell in cells if cell.setting in known]
    if done:
        write_sweep(folder, done, what)
    yield from done
    for cell in cells:
        if cell.setting in known:
            continue
        with nullcontext() if done else journal.remove_if_refused():
            rows = train_cell(cell, train_one, folder / f"{cell.name}.pt", measure)
        journal.append({"setting": cell.setting, "rows": [vars(row) for row in rows]})
        done.append(FinishedCell(cell, rows, fresh=True))
        write_sweep(folder, done, what)
        yield done[-1]
    journal.finish()


def sweep_header(cells: Sequence[SweepCell], suite: str, measure: str, about: Mapping[str, Any]) -> dict[str, Any]:
    """What a sweep is, for its journal and for sweep.json."""
    return {"grid": axes_of(cells), "suite": suite, "measure": measure, **about}


def adds_cells(theirs: Mapping[str, Any], ours: Mapping[str, Any]) -> bool:
    """Whether a sweep has all cells of another and more values of the same keys, and differs in nothing else."""
    one, other = theirs.get("grid"), ours["grid"]
    if not isinstance(one, dict) or [*one] != [*other] or {**theirs, "grid": other} != ours:
        return False
    return all(value in other[key] for key, values in one.items() for value in values)


def axes_of(cells: Sequence[SweepCell]) -> dict[str, list[str]]:
    """The keys of a grid with their values as words."""
    return {key: list(dict.fromkeys(value_text(cell.values[key]) for cell in cells)) for key in cells[0].values}


def refuse_other_sweep(folder: Path, header: Mapping[str, Any]) -> None:
    """InputError where the folder holds results of another sweep, or of something that is no sweep."""
    if not (folder / ROWS_FILE).exists():
        return
    try:
        theirs = json.loads((folder / HEADER_FILE).read_bytes())
    except (OSError, ValueError):
        raise InputError(f"{folder} holds results that are not those of a sweep: choose another folder") from None
    ours = json.loads(json.dumps(header))
    if theirs != ours and not (isinstance(theirs, dict) and adds_cells(theirs, ours)):
        raise InputError(f"{folder} holds another sweep: {header_difference(theirs, ours)}; choose another folder")


def train_cell(cell: SweepCell, train_one: TrainOne, path: Path, measure: str) -> list[Row]:
    """Trains one cell; its rows."""
    begin = time.perf_counter()
    try:
        return sweep_rows(cell, path, train_one(cell, path), measure)
    except DivergedError:
        seconds = time.perf_counter() - begin
        return [sweep_row(cell, path, {}, metric, value) for metric, value in (("diverged", 1.0), ("seconds", seconds))]


def sweep_row(cell: SweepCell, path: Path, meta: Mapping[str, Any], metric: str, value: float) -> Row:
    """A row about the training of a cell itself; n is the number of training images."""
    data, recipe = meta.get("data", {}), meta.get("recipe", {})
    n, seed = data.get("n", 0), recipe.get("seed", cell.overrides.get("seed", 0))
    return Row(
        path.name, meta.get("preset", ""), data.get("name", ""), "train", n, seed, "", 0.0, TRAINING, cell.setting, metric, float(value)
    )


def sweep_rows(cell: SweepCell, path: Path, meta: Mapping[str, Any], measure: str) -> list[Row]:
    """The accuracies of a cell, with the cell as their setting, then its seconds, the epoch it kept, any alarm, and how many flags."""
    rows, history = [], meta["history"]
    for probe, found in meta["metrics"].items():
        name, held, _ = str(found["data"]).partition(" held out")  # so a source without a test split is told
        own = sweep_row(cell, path, meta, "accuracy", found["accuracy"])
        own = replace(own, data=name, split=HELD_OUT_SPLIT if held else measure, n=found["n"], probe=probe)
        rows.append(replace(own, norm=found["norm"], eps=found["eps"], low=found["low"], high=found["high"], interval="wilson"))
    seconds, alarm = sum(epoch["seconds"] for epoch in history), bool(history and history[-1].get("alarm"))
    raised = {"alarm": float(alarm), "flags": float(len(meta.get("flags", ())))}
    numbers = {"seconds": seconds, "epoch": meta["recipe"]["epoch"], **{name: value for name, value in raised.items() if value}}
    return rows + [sweep_row(cell, path, meta, metric, value) for metric, value in numbers.items()]


def write_sweep(folder: Path, done: Sequence[FinishedCell], header: Mapping[str, Any]) -> None:
    """Writes rows.csv of the cells so far, each with whether it is on the front among them, and sweep.json."""
    rows = rows_with_front(done, header["suite"])
    text = json.dumps(header, indent=2)
    write_whole({folder / ROWS_FILE: frame_of_entries(rows, Row).to_csv(index=False).encode(), folder / HEADER_FILE: f"{text}\n".encode()})


def rows_with_front(done: Sequence[FinishedCell], suite: str = "") -> list[Row]:
    """The rows of all cells; each cell that did not diverge has one more, on_front, under the robust probe, 1 or 0."""
    robust = robust_probe(done, suite)
    kept = front_membership([(point.clean[0], point.robust[0]) for point in front_points(done, suite)])
    rows: list[Row] = []
    for one, best in zip(done, kept, strict=True):
        rows += one.rows
        if robust in one.accuracies:
            rows.append(replace(one.accuracies[robust], metric="on_front", value=float(best), low=math.nan, high=math.nan, interval=""))
    return rows


def robust_probe(done: Sequence[FinishedCell], suite: str = "") -> str:
    """The probe that counts as robust accuracy: the suite's verdict where there is one, else the last probe; "" where all diverged."""
    probes = next((list(one.accuracies) for one in done if one.accuracies), [""])
    return suite if suite in probes else probes[-1]


def front_points(done: Sequence[FinishedCell], suite: str = "") -> list[FrontPoint]:
    """The cells as points of the picture of their front, in their order; nan where the training diverged.

    The last key but the seed makes the series, the others the label; a single key makes labels only.
    """
    robust = robust_probe(done, suite)
    return [
        FrontPoint(*captions(one.cell.values), accuracy_with_interval(one, "clean"), accuracy_with_interval(one, robust)) for one in done
    ]


def captions(values: Mapping[str, Any]) -> tuple[str, str]:
    """The series and the label of a cell."""
    words = {key: f"{key} {value_text(value)}" for key, value in values.items()}
    series = [key for key in words if key != "seed"][-1:] if len(words) > 1 else []
    return " ".join(words[key] for key in series), " ".join(text for key, text in words.items() if key not in series)


def accuracy_with_interval(one: FinishedCell, probe: str) -> tuple[float, float, float]:
    """An accuracy with its interval; nan where there is none."""
    row = one.accuracies.get(probe)
    return (math.nan, math.nan, math.nan) if row is None else (row.value, row.low, row.high)


def sweep_lines(rows: Sequence[Row]) -> list[dict[str, Any]]:
    """One dict a cell from its rows, for tables: the words of its keys, each probe with its low, high and n, and the other numbers."""
    lines: dict[str, dict[str, Any]] = {}
    for row in rows:
        line = lines.setdefault(row.setting, dict(word.split("=", 1) for word in row.setting.split(" ")))
        if row.metric == "accuracy":
            line |= {row.probe: row.value, f"{row.probe} low": row.low, f"{row.probe} high": row.high, f"{row.probe} n": row.n}
        else:
            line[row.metric] = row.value
    return list(lines.values())


def read_finished_cells(cells: Sequence[SweepCell], folder: Path) -> list[FinishedCell]:
    """The cells of a finished sweep."""
    rows = [row for row in read_rows(folder) if row.metric != "on_front"]
    return [FinishedCell(cell, [row for row in rows if row.setting == cell.setting], fresh=False) for cell in cells]
