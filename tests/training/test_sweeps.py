"""Sweeps: what a sentence spells, what a key means, and a folder that a broken-off sweep goes on with; nothing is trained here."""

import json
import math

import pytest
from commandline import read, refused, robench

from robench.core.errors import DivergedError, InputError
from robench.core.recipes import exact_value_text, parse_recipe, recipe_text, value_text
from robench.core.rows import wilson
from robench.training.grids import cell_overrides, grid_cells, sweep_cells
from robench.training.presets import PRESETS
from robench.training.sweeps import (
    FinishedCell,
    front_points,
    read_finished_cells,
    robust_probe,
    rows_with_front,
    settings_of_cells,
    sweep,
    sweep_lines,
)

SAGR = {"objective": None, "reg": ("sagr=0.1,rho=0.3",)}
BOTH = {"objective": "pgd-at,steps=3", "reg": ("sagr", "jacobian=0.01")}
PLAIN = {"objective": None, "reg": ()}
ABOUT = {"data": "shapes", "preset": "small", "seed": 0}


# the sentence


def test_a_grid_is_the_product_of_its_values_the_last_key_changing_fastest():
    assert grid_cells("lambda=0.03:0.1,rho=0.1:1:10") == [{"lambda": a, "rho": b} for a in (0.03, 0.1) for b in (0.1, 1, 10)]


def test_values_are_numbers_fractions_inf_booleans_and_words():
    assert grid_cells("eps=2/255:0.5") == [{"eps": 2 / 255}, {"eps": 0.5}]
    assert grid_cells("rho=0:inf") == [{"rho": 0}, {"rho": math.inf}]
    assert grid_cells("sign=all:positive") == [{"sign": "all"}, {"sign": "positive"}]
    assert [type(cell["x"]) for cell in grid_cells("x=true:3:3.5:false")] == [bool, int, float, bool]


def test_dashes_of_a_key_are_underscores_but_not_those_of_the_name_before_it():
    assert grid_cells("batch-size=10, pgd-at.step-size=0.1") == [{"batch_size": 10, "pgd-at.step_size": 0.1}]
    assert grid_cells("my-file.py:penalty.my-weight=1") == [{"my-file.py:penalty.my_weight": 1}]


@pytest.mark.parametrize(
    "sentence",
    ["", "lambda", "lambda=", "=1", "lambda=1:", "lambda=:1", "lambda=1::2", "lambda=1,,rho=1", "lambda=1,", "sagr.=1", "a=1 2", "a b=1"],
)
def test_a_sentence_with_an_empty_part_is_refused(sentence):
    with pytest.raises(InputError, match=r"cannot read .* in the sweep .*write KEY=VALUE:VALUE"):
        grid_cells(sentence)


@pytest.mark.parametrize("sentence", ["rho=1:1", "rho=1:1.0", "rho=0.1:1e-1", "eps=2/255:4/510", "rho=inf:1e999", "sign=all:all"])
def test_a_value_given_twice_is_refused_however_it_is_written(sentence):
    with pytest.raises(InputError, match="twice"):
        grid_cells(sentence)


def test_a_key_given_twice_is_refused():
    with pytest.raises(InputError, match="names batch_size twice"):
        grid_cells("batch-size=1,batch_size=2")


def test_nan_is_no_value():
    with pytest.raises(InputError, match="rho cannot be nan"):
        grid_cells("rho=nan")


def test_values_are_worded_short_and_exactly():
    values = [0.1, 1.0, 1e-5, 2e6, 1e100, 1.23456789e20, 2 / 255, 0.25 / 255, 51 / 255, math.inf, 1 / 3, 1 / 11, 10, True, "all"]
    assert [value_text(value) for value in values] == [
        "0.1",
        "1",
        "1e-5",
        "2e6",
        "1e100",
        "1.23456789e20",
        "2/255",
        "0.25/255",
        "0.2",
        "inf",
        "1/3",
        repr(1 / 11),
        "10",
        "true",
        "all",
    ]


# what a key means


def test_lambda_is_the_weight_of_the_only_regulariser_and_its_options_are_kept():
    assert cell_overrides({"lambda": 0.3, "rho": 1}, SAGR) == {"reg": ("sagr=0.3,rho=1",)}
    assert cell_overrides({"warmup": 0.5, "drops": 0.75}, SAGR) == {"reg": ("sagr=0.1,rho=0.3,warmup=0.5,drops=0.75",)}
    assert cell_overrides({"rho": math.inf}, {"reg": ("sagr",)}) == {"reg": ("sagr,rho=inf",)}


def test_the_order_of_the_options_is_that_of_the_sentence():
    cell = {"sign": "positive", "projections": 2, "lambda": 1, "at": "clean"}
    assert cell_overrides(cell, SAGR) == {"reg": ("sagr=1.0,rho=0.3,sign=positive,projections=2,at=clean",)}


def test_an_option_of_the_objective_and_a_setting_of_the_training_are_found():
    assert cell_overrides({"steps": 7}, BOTH) == {"objective": "pgd-at,steps=7"}
    assert cell_overrides({"lr": 0.5, "epochs": 3, "seed": 4, "arch": "mlp"}, SAGR) == {"lr": 0.5, "epochs": 3, "seed": 4, "arch": "mlp"}
    assert cell_overrides({"pgd-at.steps": 7, "train.lr": 1}, BOTH) == {"objective": "pgd-at,steps=7", "lr": 1.0}


def test_several_regularisers_are_told_apart_by_their_names():
    found = cell_overrides({"sagr.lambda": 0.5, "jacobian.lambda": 2, "rho": 3}, BOTH)
    assert found == {"reg": ("sagr=0.5,rho=3", "jacobian=2.0")}
    with pytest.raises(InputError, match=r"not clear: write sagr\.lambda or jacobian\.lambda"):
        cell_overrides({"lambda": 0.5}, BOTH)


def test_a_key_of_both_the_regulariser_and_the_training_is_not_guessed():
    with pytest.raises(InputError, match=r"'norm' means .* write sagr\.norm or train\.norm"):
        cell_overrides({"norm": "l1"}, SAGR)
    assert cell_overrides({"sagr.norm": "l1"}, SAGR) == {"reg": ("sagr=0.1,rho=0.3,norm=l1",)}
    assert cell_overrides({"train.norm": "l2"}, SAGR) == {"norm": "l2"}


def test_the_method_itself_may_be_a_key():
    assert cell_overrides({"reg": "sagr"}, PLAIN) == {"reg": ("sagr",)}
    assert cell_overrides({"reg": "jacobian", "lambda": 2}, PLAIN) == {"reg": ("jacobian=2.0",)}
    assert cell_overrides({"steps": 2, "objective": "pgd-at"}, PLAIN) == {"objective": "pgd-at,steps=2"}


def test_a_regulariser_from_a_file_is_swept_like_any_other(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text("def penalty(model, batch, *, power=2):\n    return batch.logits.pow(power).mean()\n")
    settings = {"objective": None, "reg": (f"{file}:penalty",)}
    assert cell_overrides({"lambda": 3, "power": 4}, settings) == {"reg": (f"{file}:penalty=3.0,power=4",)}
    assert cell_overrides({"mine.py:penalty.power": 4}, settings) == {"reg": (f"{file}:penalty,power=4",)}


@pytest.mark.parametrize(
    ("cell", "settings", "sentence"),
    [
        ({"lambda": 1}, PLAIN, "no regulariser whose weight"),
        ({"rhoo": 1}, SAGR, "unknown key 'rhoo' of a sweep: did you mean 'rho'"),
        ({"epoch": 1}, PLAIN, "did you mean 'epochs'"),
        ({"sagr.rhoo": 1}, SAGR, "did you mean 'sagr.rho'"),
        ({"sgar.rho": 1}, SAGR, "nothing that is called 'sgar': did you mean 'sagr'"),
        ({"lambda": "big"}, SAGR, "lambda of sagr must be a finite number"),
        ({"lambda": math.inf}, SAGR, "lambda of sagr must be a finite number"),
        ({"lambda": -1}, SAGR, "lambda of sagr must be a finite number of at least 0"),
        ({"lambda": True}, SAGR, "lambda of sagr must be a finite number"),
        ({"epochs": 2.5}, SAGR, "epochs must be a whole number"),
        ({"seed": "one"}, SAGR, "seed must be a whole number"),
        ({"eps": "8/0"}, SAGR, "eps must be a finite number"),
        ({"arch": 3}, SAGR, "arch must be a word, not 3"),
        ({"objective": 3}, SAGR, "objective must be a word, not 3"),
        ({"reg": 0.5}, SAGR, "reg must be a word, not 0.5"),
        ({"lambda": 1}, {"reg": ("sagr", "sagr=2")}, "given twice"),
        ({"lambda": 1}, {"reg": ("sagrr",)}, "unknown regulariser 'sagrr'"),
        ({"steps": 1}, {"objective": "pgdat"}, "unknown objective 'pgdat': did you mean 'pgd-at'"),
    ],
)  # fmt: skip
def test_what_cannot_be_applied_gets_a_sentence(cell, settings, sentence):
    with pytest.raises(InputError, match=sentence):
        cell_overrides(cell, settings)


@pytest.mark.parametrize(
    "sentence", ["sagr", "sagr=0.1", "sagr=1e-17,rho=inf,sign=positive", "x,on=true,off=false,n=3,eps=2/255", "f.py:g=2,a=b"]
)
def test_a_spelled_recipe_is_read_back_as_it_was(sentence):
    assert parse_recipe(recipe_text(parse_recipe(sentence))) == parse_recipe(sentence)
    assert exact_value_text(0.1 + 0.2) == "0.30000000000000004"


def test_every_setting_of_a_preset_is_a_key():
    usual = {key: value for key, value in PRESETS["small"].items() if key not in ("objective", "reg")}
    assert cell_overrides(usual, PLAIN) == usual


# the plan


def test_cells_have_settings_and_file_names_of_their_own():
    cells = sweep_cells("lambda=0.1:2,eps=2/255:0.1", SAGR)
    assert [cell.setting for cell in cells] == ["lambda=0.1 eps=2/255", "lambda=0.1 eps=0.1", "lambda=2 eps=2/255", "lambda=2 eps=0.1"]
    assert [cell.name for cell in cells][:2] == ["lambda-0.1_eps-2-255", "lambda-0.1_eps-0.1"]
    assert cells[0].overrides == {"reg": ("sagr=0.1,rho=0.3",), "eps": 2 / 255}


@pytest.mark.parametrize("key", ["rho", "lr"])
def test_large_and_small_numbers_have_file_names_of_their_own(key):
    assert [cell.name for cell in sweep_cells(f"{key}=1e7:1e-7", SAGR)] == [f"{key}-1e7", f"{key}-1e-7"]


def test_the_settings_of_the_user_count_in_the_plan():
    assert len(sweep_cells("lambda=0:1", {**PRESETS["small"], **SAGR, "epochs": 1})) == 2
    with pytest.raises(InputError, match="choose one of them"):
        sweep_cells("mixup=0.5:1", {**PRESETS["small"], "cutmix": 1.0})


@pytest.mark.parametrize(
    ("sentence", "settings"),
    [
        ("epochs=1:0", SAGR),
        ("train.norm=linf:l3", SAGR),
        ("objective=standard:pgdat", PLAIN),
        ("reg=sagr:sgar", PLAIN),
        ("steps=0", BOTH),
        ("warmup=2", SAGR),
        ("optimizer=sgd:sdg", PLAIN),
    ],
)
def test_a_cell_that_cannot_be_trained_is_refused_before_the_first_one_is(sentence, settings):
    with pytest.raises(InputError):
        sweep_cells(sentence, settings)


def test_cells_with_one_file_name_are_refused():
    with pytest.raises(InputError, match="one file name: arch=a/b and arch=a-b"):
        sweep_cells("arch=a/b:a-b", PLAIN)


# the run


def meta(cell, robust=0.3, clean=0.8, n=100, suite=("pgd-20", "autoattack"), data="shapes held out"):
    """What a training hands back, as far as a sweep reads it."""
    about = {"n": n, "norm": "linf", "eps": 8 / 255, "data": data}
    shares = {"clean": clean, **{probe: robust + 0.1 * (len(suite) - 1 - place) for place, probe in enumerate(suite)}}
    found = {
        probe: {"accuracy": share, **dict(zip(("low", "high"), wilson(share * n, n), strict=True)), **about}
        for probe, share in shares.items()
    }
    return {
        "preset": "small", "data": {"name": "shapes", "n": 9500}, "recipe": {"seed": cell.overrides.get("seed", 0), "epoch": 3},
        "metrics": {**found, "clean": found["clean"] | {"norm": "", "eps": 0.0}},
        "history": [{"epoch": e, "seconds": 2.0, "alarm": ""} for e in range(4)],
    }  # fmt: skip


class Trainer:
    """Stands for `train`: notes which cells it was given, writes a file, and breaks off where it is told to."""

    def __init__(self, break_at=None, error=KeyboardInterrupt):
        self.cells, self.break_at, self.error = [], break_at, error

    def __call__(self, cell, path):
        if cell.setting == self.break_at:
            raise self.error
        self.cells.append(cell.setting)
        path.write_bytes(b"weights")
        weight = cell.values["lambda"]
        return meta(cell, robust=0.2 + 0.3 * weight, clean=0.9 - 0.4 * weight - 0.01 * cell.values.get("rho", 0))


CELLS = sweep_cells("lambda=0.1:0.5,rho=0.1:1", SAGR)
NAMES = [cell.setting for cell in CELLS]


def run(folder, train_one, cells=CELLS, about=ABOUT, **how):
    return list(sweep(cells, train_one, folder=folder, about=about, **{"suite": "autoattack", **how}))


def table(folder):
    return read(folder / "rows.csv")


def test_a_sweep_trains_every_cell_and_writes_tidy_rows(tmp_path):
    trainer = Trainer()
    found = run(tmp_path / "out", trainer)
    assert trainer.cells == [one.cell.setting for one in found] == NAMES
    lines = table(tmp_path / "out")
    assert {line["setting"] for line in lines} == set(NAMES)
    first = [line for line in lines if line["setting"] == NAMES[0]]
    assert [line["probe"] for line in first] == ["clean", "pgd-20", "autoattack", "train", "train", "autoattack"]
    assert [line["metric"] for line in first] == ["accuracy", "accuracy", "accuracy", "seconds", "epoch", "on_front"]
    robust = first[2]
    assert (robust["checkpoint"], robust["data"], robust["split"], robust["n"]) == ("lambda-0.1_rho-0.1.pt", "shapes", "held-out", "100")
    assert (robust["norm"], float(robust["eps"]), robust["preset"], robust["seed"]) == ("linf", 8 / 255, "small", "0")
    assert [float(robust[key]) for key in ("value", "low", "high")] == pytest.approx([0.23, *wilson(23, 100)])
    assert [float(line["value"]) for line in first[3:5]] == [8.0, 3.0]
    assert (first[3]["split"], first[3]["n"]) == ("train", "9500")
    assert sorted(path.name for path in (tmp_path / "out").glob("*.pt")) == sorted(f"{cell.name}.pt" for cell in CELLS)


def test_the_front_is_told_by_the_verdict_of_the_suite(tmp_path):
    run(tmp_path, Trainer())
    kept = {line["setting"]: float(line["value"]) for line in table(tmp_path) if line["metric"] == "on_front"}
    assert kept == {"lambda=0.1 rho=0.1": 1, "lambda=0.1 rho=1": 0, "lambda=0.5 rho=0.1": 1, "lambda=0.5 rho=1": 0}


def test_the_robust_probe_is_the_verdict_of_the_suite_else_the_last_probe(tmp_path):
    found = run(tmp_path, Trainer())
    assert robust_probe(found, "pgd-20") == "pgd-20"
    assert robust_probe(found, "smoke") == robust_probe(found) == "autoattack"
    assert robust_probe([], "autoattack") == ""


def test_what_decides_the_numbers_is_written_beside_them(tmp_path):
    run(tmp_path, Trainer(), measure="test")
    about = json.loads((tmp_path / "sweep.json").read_text())
    assert about == {"grid": {"lambda": ["0.1", "0.5"], "rho": ["0.1", "1"]}, "suite": "autoattack", "measure": "test", **ABOUT}


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError("boom"), InputError("no such device")])
@pytest.mark.parametrize("at", [1, 3])
def test_a_sweep_that_was_broken_off_goes_on_to_the_tables_of_an_unbroken_one(tmp_path, at, error):
    run(tmp_path / "unbroken", Trainer())
    with pytest.raises(error if isinstance(error, type) else type(error)):
        run(tmp_path / "out", Trainer(NAMES[at], error))
    assert {line["setting"] for line in table(tmp_path / "out")} == set(NAMES[:at])
    again = Trainer()
    found = run(tmp_path / "out", again, resume=True)
    assert again.cells == NAMES[at:]
    assert [one.fresh for one in found] == [False] * at + [True] * (4 - at)
    for name in ("rows.csv", "sweep.json"):
        assert (tmp_path / "out" / name).read_bytes() == (tmp_path / "unbroken" / name).read_bytes()


def test_a_torn_last_line_of_the_state_costs_that_cell_only(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, Trainer(NAMES[2]))
    state = next(tmp_path.glob("state-*.jsonl"))
    state.write_bytes(state.read_bytes()[:-20])
    again = Trainer()
    assert len(run(tmp_path, again, resume=True)) == 4
    assert again.cells == NAMES[1:]


def test_an_unfinished_sweep_needs_resume(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, Trainer(NAMES[1]))
    before = (tmp_path / "rows.csv").read_bytes()
    with pytest.raises(InputError, match="--resume"):
        run(tmp_path, Trainer())
    assert (tmp_path / "rows.csv").read_bytes() == before


def test_a_finished_sweep_is_handed_out_again_with_resume_and_nothing_is_trained(tmp_path):
    run(tmp_path, Trainer())
    before, idle = (tmp_path / "rows.csv").read_bytes(), Trainer()
    found = run(tmp_path, idle, resume=True)
    assert idle.cells == []
    assert [one.fresh for one in found] == [False] * 4
    assert (tmp_path / "rows.csv").read_bytes() == before


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("break_at", [None, NAMES[2]])
@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"cells": sweep_cells("lambda=0.1:0.6,rho=0.1:1", SAGR)}, "its grid is"),
        ({"about": ABOUT | {"seed": 1}}, "its seed is 0, here it is 1"),
        ({"measure": "test"}, 'its measure is "held-out"'),
        ({"suite": "pgd-20"}, "its suite is"),
    ],
)
def test_the_folder_of_another_sweep_is_refused_and_left_as_it_is(tmp_path, change, sentence, break_at, resume):
    try:
        run(tmp_path, Trainer(break_at))
    except KeyboardInterrupt:
        assert break_at
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    idle = Trainer()
    with pytest.raises(InputError, match=sentence):
        run(tmp_path, idle, resume=resume, **change)
    assert idle.cells == []
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_folder_with_results_of_another_command_is_refused(tmp_path):
    (tmp_path / "rows.csv").write_text("checkpoint,probe\n")
    with pytest.raises(InputError, match="not those of a sweep"):
        run(tmp_path, Trainer())
    assert [path.name for path in tmp_path.iterdir()] == ["rows.csv"]


def test_a_sweep_that_is_refused_at_its_first_cell_leaves_nothing_behind(tmp_path):
    with pytest.raises(InputError, match="no such data"):
        run(tmp_path, Trainer(NAMES[0], InputError("no such data")))
    assert list(tmp_path.iterdir()) == []


def test_a_training_that_diverges_is_a_result_and_the_sweep_goes_on(tmp_path):
    class Diverging(Trainer):
        def __call__(self, cell, path):
            path.with_name(f"{path.stem}.state.pt").write_bytes(b"half a training")
            found = super().__call__(cell, path)
            path.with_name(f"{path.stem}.state.pt").unlink()
            return found

    trainer = Diverging(NAMES[1], DivergedError("the training diverged in epoch 1, step 3: loss became NaN or infinite"))
    found = run(tmp_path, trainer)
    assert trainer.cells == [NAMES[0], *NAMES[2:]]
    assert [one.number("diverged") == 1 for one in found] == [False, True, False, False]
    assert found[1].accuracies == {}
    assert [line["metric"] for line in table(tmp_path) if line["setting"] == NAMES[1]] == ["diverged", "seconds"]
    drawn = front_points(found, "autoattack")
    assert math.isnan(drawn[1].clean[0])
    assert math.isnan(drawn[1].robust[0])
    assert run(tmp_path, Trainer(), resume=True)[1].number("diverged") == 1


def test_where_all_diverge_there_is_no_front(tmp_path):
    def lost(cell, path):
        raise DivergedError("the training diverged in epoch 1, step 1: loss became NaN or infinite")

    found = run(tmp_path, lost)
    assert robust_probe(found, "autoattack") == ""
    assert {row.metric for row in rows_with_front(found, "autoattack")} == {"diverged", "seconds"}


def test_a_training_that_ended_with_an_alarm_is_marked(tmp_path):
    def alarmed(cell, path):
        found = meta(cell)
        found["history"][-1]["alarm"] = "held-out PGD-10 accuracy fell"
        return found

    assert [one.number("alarm") for one in run(tmp_path, alarmed)] == [1.0] * 4


@pytest.mark.parametrize(("data", "split"), [("shapes held out", "held-out"), ("shapes", "test")])
def test_the_rows_say_which_images_were_measured(tmp_path, data, split):
    found = run(tmp_path, lambda cell, path: meta(cell, data=data), measure="test")
    row = found[0].accuracies["clean"]
    assert (row.data, row.split) == ("shapes", split)


def test_rows_appear_as_soon_as_a_cell_is_done(tmp_path):
    running = sweep(CELLS, Trainer(), folder=tmp_path, about=ABOUT, suite="autoattack")
    for count in range(1, 5):
        next(running)
        assert len({line["setting"] for line in table(tmp_path)}) == count


def test_the_last_key_but_the_seed_makes_the_series():
    def captions(sentence):
        cell = sweep_cells(sentence, SAGR)[0]
        (point,) = front_points([FinishedCell(cell, [], fresh=True)])
        return point.series, point.label

    assert captions("lambda=0.1,rho=1:2") == ("rho 1", "lambda 0.1")
    assert captions("lambda=0.1") == ("", "lambda 0.1")
    assert captions("lambda=0.1,rho=1,seed=0:1") == ("rho 1", "lambda 0.1 seed 0")
    assert captions("lambda=0.1,seed=0:1") == ("lambda 0.1", "seed 0")
    assert captions("seed=0:1") == ("", "seed 0")


def test_points_hold_accuracies_with_their_intervals(tmp_path):
    found = run(tmp_path, Trainer())
    first = front_points(found, "autoattack")[0]
    assert first.clean == (0.859, *wilson(85.9, 100))
    assert first.robust == (pytest.approx(0.23), *map(pytest.approx, wilson(23, 100)))


# several seeds

SEEDED = sweep_cells("lambda=0.1:0.5,seed=0:1:2", SAGR)
ROBUST = {"lambda=0.1": (0.2, 0.3, 0.7), "lambda=0.5": (0.38, 0.40, 0.45)}  # the best single cell has the worse mean


def seeded(cell, path):
    """A training of a cell with a seed, whose robust accuracy is that of ROBUST."""
    path.write_bytes(b"weights")
    return meta(cell, robust=ROBUST[cell.setting.split(" ")[0]][cell.values["seed"]], clean=0.8)


def test_fronts_are_made_of_means_over_seeds_and_seeds_are_no_settings(tmp_path):
    found = run(tmp_path, seeded, cells=SEEDED)
    points = front_points(found, "autoattack")
    assert [point.label for point in points] == ["lambda 0.1", "lambda 0.5"]
    assert [point.robust[0] for point in points] == pytest.approx([0.4, 0.41])
    told = {line["setting"]: float(line["value"]) for line in table(tmp_path) if line["metric"] == "on_front"}
    assert told == {"lambda=0.1": 0, "lambda=0.5": 1}


def test_the_table_has_a_row_a_cell_and_mean_deviation_and_number_of_seeds_of_each_setting(tmp_path):
    run(tmp_path, seeded, cells=SEEDED)
    lines = [line for line in table(tmp_path) if line["probe"] == "autoattack" and line["setting"].startswith("lambda=0.1")]
    assert [float(line["value"]) for line in lines if line["metric"] == "accuracy"] == [0.2, 0.3, 0.7]
    group = {line["metric"]: line for line in lines if line["setting"] == "lambda=0.1"}
    assert float(group["seed_mean"]["value"]) == pytest.approx(0.4)
    assert float(group["seed_sd"]["value"]) == pytest.approx(math.sqrt((0.04 + 0.01 + 0.09) / 2))
    assert (float(group["seeds"]["value"]), group["seed_mean"]["interval"], group["seed_mean"]["checkpoint"]) == (3, "student", "")


@pytest.mark.parametrize("kind", ["diverged", "alarm"])
def test_a_setting_with_a_seed_that_diverged_is_named_and_on_no_front(tmp_path, kind):
    def one_fails(cell, path):
        if cell.setting == "lambda=0.5 seed=1" and kind == "diverged":
            raise DivergedError("the loss is NaN")
        done = seeded(cell, path)
        alarm = "the loss is NaN" if cell.setting == "lambda=0.5 seed=1" else ""
        return done | {"history": [{"epoch": 0, "seconds": 1.0, "alarm": alarm}]}

    found = run(tmp_path, one_fails, cells=SEEDED)
    good, bad = settings_of_cells(found)
    assert [one.cell.setting for one in bad.failed] == ["lambda=0.5 seed=1"]
    assert (good.failed, bad.mean("autoattack").mean) == ([], pytest.approx((0.38 + 0.45) / 2))
    assert math.isnan(front_points(found, "autoattack")[1].robust[0])
    told = {
        (line["setting"], line["metric"]): float(line["value"])
        for line in table(tmp_path)
        if line["metric"] in ("on_front", "seeds_left_out")
    }
    assert told == {("lambda=0.1", "on_front"): 1, ("lambda=0.5", "on_front"): 0, ("lambda=0.5", "seeds_left_out"): 1}


def test_a_setting_of_which_all_seeds_diverged_has_no_mean(tmp_path):
    def all_fail(cell, path):
        if cell.values["lambda"] == 0.5:
            raise DivergedError("NaN")
        return seeded(cell, path)

    found = run(tmp_path, all_fail, cells=SEEDED)
    last = sweep_lines(rows_with_front(found, "autoattack"))[-1]
    assert (last["lambda"], last["seeds_left_out"]) == ("0.5", 3)
    assert "clean" not in last


def test_seeds_alone_are_one_setting(tmp_path):
    found = run(tmp_path, lambda cell, path: meta(cell, robust=0.1 * cell.values["seed"]), cells=sweep_cells("seed=1:2", SAGR))
    (setting,) = settings_of_cells(found)
    assert (setting.text, setting.mean("autoattack").mean) == ("", pytest.approx(0.15))
    assert sweep_lines(rows_with_front(found, "autoattack"))[-1]["seeds"] == 2


def test_a_finished_sweep_with_seeds_is_read_again_as_it_was(tmp_path):
    before = rows_with_front(run(tmp_path, seeded, cells=SEEDED), "autoattack")
    assert [row.setting for row in rows_with_front(read_finished_cells(SEEDED, tmp_path), "autoattack")] == [row.setting for row in before]


def test_seeds_of_the_command_are_the_key_of_a_sweep(tmp_path):
    words = ["--arch", "mlp,width=8", "--n-train", 200, "--held-out", 50, "--epochs", 1, "--eval-n", 12, "--suite", "fgsm", "--quiet"]
    by_option = robench("train", *words, "--sweep", "lr=0.01:0.1", "--seeds", "0,1", "--out", tmp_path / "a")
    by_key = robench("train", *words, "--sweep", "lr=0.01:0.1,seed=0:1", "--out", tmp_path / "b")
    tables = [read(tmp_path / name / "rows.csv") for name in "ab"]
    numbers = [[(line["setting"], line["metric"], line["value"]) for line in lines if line["metric"] != "seconds"] for lines in tables]
    assert numbers[0] == numbers[1]
    assert "\N{PLUS-MINUS SIGN}" in by_option.stdout
    assert by_key.stdout.count("yes") >= 1


def test_a_pivot_has_a_line_a_cell(tmp_path):
    found = run(tmp_path, Trainer())
    lines = sweep_lines(rows_with_front(found, "autoattack"))
    assert [(line["lambda"], line["rho"]) for line in lines] == [("0.1", "0.1"), ("0.1", "1"), ("0.5", "0.1"), ("0.5", "1")]
    assert list(lines[0]) == [
        "lambda", "rho", "clean", "clean low", "clean high", "clean n", "pgd-20", "pgd-20 low", "pgd-20 high", "pgd-20 n", "autoattack",
        "autoattack low", "autoattack high", "autoattack n", "seconds", "epoch", "on_front",
    ]  # fmt: skip
    assert (lines[0]["autoattack"], lines[0]["epoch"], lines[0]["on_front"]) == (pytest.approx(0.23), 3.0, 1.0)


def test_the_command_trains_every_cell_draws_the_front_and_goes_on_where_it_stopped(tmp_path):
    import numpy as np

    generator = np.random.default_rng(0)
    y = np.arange(80) % 2
    x = (generator.random((80, 8, 8, 3)) * 150 + 100 * y[:, None, None, None]).astype(np.uint8)
    np.savez(tmp_path / "toy.npz", x_train=x[:60], y_train=y[:60], x_test=x[60:], y_test=y[60:])
    out = tmp_path / "out"
    words = ["train", "--data", f"npz:{tmp_path}/toy.npz", "--arch", "cnn,width=4", "--epochs", 1, "--batch-size", 8, "--held-out", 20]
    words += ["--reg", "sagr,sign=positive", "--sweep", "lambda=0.01:0.1,rho=0:1", "--suite", "pgd-20", "--out", out]
    shown = robench(*words)
    assert "lambda" in shown.stdout
    assert "measured on held-out images; pgd-20: n = 20" in " ".join(shown.stdout.split())
    assert (out / "front.png").read_bytes()[:4] == b"\x89PNG"
    assert len(list(out.glob("lambda-*_rho-?.pt"))) == 4
    rows = read(out / "rows.csv")
    assert {row["setting"] for row in rows} == {"lambda=0.01 rho=0", "lambda=0.01 rho=1", "lambda=0.1 rho=0", "lambda=0.1 rho=1"}
    assert {row["n"] for row in rows if row["metric"] == "accuracy"} == {"20"}
    before = {path: path.stat().st_mtime_ns for path in out.glob("*.pt")}
    robench(*words, "--resume")
    assert {path: path.stat().st_mtime_ns for path in out.glob("*.pt")} == before
    assert "writes into a folder" in refused(*words[:-1], tmp_path / "net.pt")
    for cells, says in (
        ("arch=mlp:foo", "the cell arch=foo cannot be trained: unknown architecture"),
        ("batch_size=4:1000", "fewer than one batch of 1000"),
        ("held_out=20:0", "hold out images with --held-out N"),
    ):
        assert says in refused(*words[:-1], tmp_path / "none", "--sweep", cells)
        assert not (tmp_path / "none").exists()
    assert "did you mean 'rho'" in refused(*words, "--sweep", "roh=1:2")
    assert "Pass its folder with --out" in refused(*words[:-2], "--resume")
