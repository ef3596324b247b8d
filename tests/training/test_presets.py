"""The presets: each against its source, and each makes two steps and is measured."""

import re

import numpy as np
import pytest
import torch
from batches import batch_of
from commandline import robench
from places import DOCS, TESTS

from robench.core.recipes import parse_recipe, resolve
from robench.core.schedules import SCHEDULES
from robench.models import build_network
from robench.objectives import OBJECTIVES, REGULARIZERS, regularizers_of
from robench.objectives.jacobian import jacobian
from robench.training.preset_sources import PRESET_SOURCES, source_of
from robench.training.presets import HOFFMAN_WEIGHT, PRESETS
from robench.training.train import train

GREY = ("mnist-small", "mnist-l2", "hoffman2019", "emr-mlp")
SIDES = {"igd-tinyimagenet": 64, "igd-imagenet100": 224}
WIDE_SIDE = 16  # a step of a wide network on images of 32 pixels takes half a minute


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Files of 8 made images for training and 4 for the test, by shape."""
    folder = tmp_path_factory.mktemp("made")

    def file(channels, side):
        path = folder / f"{channels}-{side}.npz"
        if not path.exists():
            numbers = np.random.default_rng(side)
            arrays = {
                f"{key}_{split}": value
                for split, n in (("train", 8), ("test", 4))
                for key, value in (("x", numbers.integers(0, 256, (n, side, side, channels), np.uint8)), ("y", np.arange(n) % 4))
            }
            np.savez(path, **arrays)
        return path

    return file


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_trains_two_steps_and_is_measured(name, made):
    usual = WIDE_SIDE if PRESETS[name]["arch"].startswith("wrn") else 32
    started(name, made(1, 28) if name in GREY else made(3, SIDES.get(name, usual)))


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_trains_two_steps_of_a_small_network(name, made):
    started(name, made(1, 28) if name in GREY else made(3, 32), arch="cnn")


def started(name, file, **changes):
    """Two steps by a preset at batch size 2, each replayed where the objective says so, and a measurement of 4 images."""
    done = train(f"npz:{file}", preset=name, batch_size=2, epochs=1, held_out=4, probe_n=2, eval_n=4, suite=["fgsm"], **changes)
    assert done.meta["recipe"]["arch"] == changes.get("arch", PRESETS[name]["arch"])
    (epoch,) = done.meta["history"]
    assert np.isfinite(epoch["terms"]["loss"])
    assert done.meta["metrics"]["fgsm"]["n"] == 4


def epochs_from_one(*at):
    """The rule of code that counts its epochs from 1 and lowers the rate where the count reaches one of these numbers."""
    return lambda epoch: 0.1 ** sum(epoch + 1 >= one for one in at)


def epochs_from_zero(*at):
    """The same of code that counts its epochs from 0."""
    return lambda epoch: 0.1 ** sum(epoch >= one for one in at)


def triangle(epochs, peak):
    """A line from 0 up to 1 at the epoch `peak`, and down to 0."""
    return lambda epoch: np.interp(epoch, [0, peak, epochs], [0, 1, 0])


# preset: top rate, epochs, share of the top rate at the start of an epoch (from 0), momentum by Nesterov, weight decay, as in its source
SCHEDULES_OF_SOURCES = {
    "rice2020": (0.1, 200, epochs_from_zero(100, 150), False, 5e-4),
    "awp2020": (0.1, 200, epochs_from_zero(100, 150), False, 5e-4),
    "pang2021": (0.1, 110, epochs_from_zero(100, 105), False, 5e-4),
    "trades2019": (0.1, 76, epochs_from_one(75, 90, 100), False, 2e-4),
    "awp2020-trades": (0.1, 200, epochs_from_one(100, 150), False, 5e-4),
    "mart2020": (0.01, 120, epochs_from_one(75, 90, 100), False, 3.5e-3),
    "mail2021-at": (0.01, 120, epochs_from_zero(75, 90, 100), False, 3.5e-3),
    "mail2021-trades": (0.01, 120, epochs_from_zero(75, 90, 100), False, 3.5e-3),
    "emr-at": (0.1, 100, epochs_from_zero(60, 90), False, 5e-4),
    "emr-trades": (0.1, 130, epochs_from_zero(60, 120), False, 1e-3),
    "emr-mail": (0.1, 100, epochs_from_zero(75, 90), False, 2e-4),
    "hoffman2019": (0.01, 5, lambda epoch: 1, False, 5e-4),
    "wong2020": (0.2, 15, triangle(15, 7.5), False, 5e-4),
    "wong2020-free": (0.04, 11, triangle(11, 5.5), False, 5e-4),
    "n-fgsm2022": (0.2, 30, triangle(30, 15), False, 5e-4),
    "gradalign2020": (0.3, 30, triangle(30, 12), False, 5e-4),
    "free2019": (0.1, 26, epochs_from_zero(13, 19.5), False, 2e-4),
}


@pytest.mark.parametrize("name", SCHEDULES_OF_SOURCES)
def test_a_published_preset_has_the_schedule_of_its_source(name):
    rate, epochs, share, nesterov, decay = SCHEDULES_OF_SOURCES[name]
    its = PRESETS[name]
    assert (its["optimizer"], its["lr"], its["epochs"], its["momentum"], its["nesterov"], its["weight_decay"]) == (
        "sgd", rate, epochs, 0.9, nesterov, decay,
    )  # fmt: skip
    assert its["batch_size"] == (64 if name == "hoffman2019" else 128)
    schedule = resolve(parse_recipe(its["schedule"]), SCHEDULES, "schedule")
    assert [schedule(epoch / epochs) for epoch in range(epochs)] == pytest.approx([share(epoch) for epoch in range(epochs)])


def test_hat_goes_by_the_one_cycle_schedule_of_torch():
    """Up to its last rate, which is 4e-6 of the top one there and 0 here."""
    its, steps = PRESETS["hat2022"], 400
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], its["lr"], momentum=0.9, nesterov=its["nesterov"])
    theirs, rates = torch.optim.lr_scheduler.OneCycleLR(optimizer, its["lr"], total_steps=steps + 1, pct_start=0.25), []
    for _ in range(steps):
        rates.append(theirs.get_last_lr()[0])
        optimizer.step()
        theirs.step()
    schedule = resolve(parse_recipe(its["schedule"]), SCHEDULES, "schedule")
    assert [its["lr"] * schedule(step / steps) for step in range(steps)] == pytest.approx(rates, abs=2e-3)
    assert max(rates) == pytest.approx(0.21, rel=1e-3)


@pytest.mark.parametrize(("name", "at"), [("emr-at", (60, 90)), ("emr-trades", (60, 120)), ("emr-mail", (75, 90))])
def test_the_weight_of_emr_falls_in_the_epochs_of_its_code_that_count_from_one(name, at):
    ((weight_of, _),) = regularizers_of(PRESETS[name]["reg"]).values()
    epochs = PRESETS[name]["epochs"]
    assert [weight_of(epoch / epochs) / weight_of(0) for epoch in range(epochs)] == pytest.approx(
        [epochs_from_one(*at)(epoch) for epoch in range(epochs)]
    )
    assert weight_of(0) * 128 == pytest.approx({"emr-at": 3}.get(name, 1), rel=1e-4)


def test_the_weight_of_hoffman2019_is_that_of_the_example_on_normalised_pixels():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = build_network("mlp", classes=10, shape=(1, 28, 28), mean=(0.1307,), std=(0.3081,))
        plain = build_network("mlp", classes=10, shape=(1, 28, 28))
        x = torch.rand(3, 1, 28, 28)
    plain.load_state_dict(network.network.state_dict())
    normalised = (x - 0.1307) / 0.3081
    assert torch.allclose(plain(normalised), network(x), atol=1e-5)
    penalties = [
        jacobian(net, batch_of(net, at, torch.arange(3)), estimator="exact").item() for net, at in ((network, x), (plain, normalised))
    ]
    assert HOFFMAN_WEIGHT * penalties[0] == pytest.approx(0.1 * penalties[1], rel=1e-4)
    assert PRESETS["hoffman2019"]["reg"] == (f"jacobian={HOFFMAN_WEIGHT:.6f}",)


def test_one_number_of_a_given_normalisation_is_that_of_every_channel(made):
    done = train(f"npz:{made(3, 32)}", preset="hoffman2019", batch_size=2, epochs=1, held_out=4, eval_n=4, suite=[])
    assert (done.meta["model"]["mean"], done.meta["model"]["std"]) == ([0.1307] * 3, [0.3081] * 3)


def test_the_page_says_for_every_preset_its_source_and_what_differs():
    page = (DOCS / "fidelity.md").read_text()
    rows = {cells[1].strip().strip("`"): cells[2:4] for line in page.splitlines() if (cells := line.split("|"))[1:] and "`" in cells[1]}
    told = {name: tuple(map(str.strip, cells)) for name, cells in rows.items() if name in PRESETS}
    assert told == {name: source_of(name) for name in told}
    assert PRESET_SOURCES.keys() <= told.keys()  # a preset without a row is ours


def test_the_list_of_presets_shows_their_sources():
    shown = " ".join(robench("list", "presets").stdout.split())
    assert "from yaodongyu/TRADES, train_trades_cifar10.py" in shown
    assert "differs: its weight 1 is 1/128 here" in shown


def test_the_page_names_every_method_with_a_test_that_exists():
    page = (DOCS / "fidelity.md").read_text()
    named = dict(re.findall(r"^\| `([\w-]+)` \|.*`(test_\w+\.py::test_\w+)` \|$", page, re.M))
    assert named.keys() == {*OBJECTIVES, *REGULARIZERS}
    for place in [*named.values(), *re.findall(r"`(test_awp\.py::test_\w+)`", page)]:
        file, _, test = place.partition("::")
        assert f"\ndef {test}(" in (TESTS / "objectives" / file).read_text(), place
