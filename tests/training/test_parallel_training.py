"""Two processes that share every batch train the network that one process trains: every objective and regulariser has global means."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from robench.core.errors import InputError
from robench.core.processes import World, join_world
from robench.data import Images
from robench.models import checkpoint
from robench.objectives import OBJECTIVES, REGULARIZERS
from robench.training.epochs import fit
from robench.training.settings import plan_of, resolved_settings
from robench.training.steps import begin_training
from robench.training.types import Epoch, Step

LAUNCHER = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
ENV = {**os.environ, "OMP_NUM_THREADS": "1"}
CASES = {
    **{name: {"objective": name} for name in OBJECTIVES},
    **{f"+{name}": {"reg": (f"{name}=0.1",), "objective": "standard"} for name in REGULARIZERS},
    "everything": {
        "objective": "trades,steps=2", "reg": ("emr", "igd"), "awp": 0.01, "ema": 0.9, "mixup": 1.0, "label_smoothing": 0.1,
        "augment": "crop-flip-cutout",
    },
    "cutmix": {"objective": "standard", "cutmix": 1.0},
    "equal average": {"objective": "standard", "swa": 0.1},
    "accumulated": {"objective": "free-at,replays=2", "accumulate": 2},
}  # fmt: skip


def images(n=24):
    generator = torch.Generator().manual_seed(1)
    x = (torch.rand(n, 3, 8, 8, generator=generator) * 255).to(torch.uint8)
    return Images("toy", "train", x, torch.arange(n) % 3, torch.arange(n) + 50, ("a", "b", "c"))


class Exact(nn.Module):
    """Takes float32 pixels into a float64 network: a sign of a gradient that turns with the order of a sum would hide a wrong mean."""

    def forward(self, x):
        return x.double()


def network(seed=0):
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return nn.Sequential(Exact(), nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.GELU(), nn.Flatten(), nn.Linear(144, 3)).double()


def trained(changes, world=None):
    """The weights after two epochs of two steps, and the events."""
    words = {"epochs": 2, "batch_size": 12, "probe_n": 8, "eps": 0.03, "lr": 0.02, "optimizer": "sgd", "schedule": "constant"}
    settings, _ = resolved_settings("small", {**words, **changes})
    plan = plan_of(settings, 1, network(7).eval().requires_grad_(False))
    run = begin_training(network(), plan, world)
    events = list(fit(run, plan, images(), images()))
    terms = [event.terms for event in events if isinstance(event, Step)]
    held_out = [(event.held_out_clean, event.held_out_robust) for event in events if isinstance(event, Epoch)]
    return {"model": run.model.state_dict(), "average": run.average.state_dict(), "terms": terms, "held_out": held_out}


def work(folder: Path) -> None:
    """What each of the two processes does: every case, one after the other; both write what they have found."""
    with join_world() as world:
        found = {name: trained(changes, world) for name, changes in CASES.items()}
        torch.save(found, folder / f"rank-{world.rank}.pt")


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    """What the two processes have found."""
    folder = tmp_path_factory.mktemp("ranks")
    subprocess.run([*LAUNCHER, __file__, str(folder)], check=True, env=ENV, capture_output=True)
    return [torch.load(folder / f"rank-{rank}.pt", weights_only=True) for rank in (0, 1)]


@pytest.mark.parametrize("name", CASES)
def test_two_processes_train_the_network_of_one(ranks, name):
    alone, (first, second) = trained(CASES[name]), (found[name] for found in ranks)
    for part in ("model", "average"):
        for key, value in alone[part].items():
            assert torch.equal(first[part][key], second[part][key]), key
            torch.testing.assert_close(first[part][key], value, rtol=1e-8, atol=1e-10)
    assert first["terms"] == second["terms"]
    for one, two in zip(alone["terms"], first["terms"], strict=True):
        assert two == pytest.approx(one, rel=1e-6, abs=1e-8)
    assert first["held_out"] == second["held_out"] == alone["held_out"]


def test_processes_that_cannot_share_a_batch_evenly_are_refused():
    settings, _ = resolved_settings("small", {"batch_size": 25})
    with pytest.raises(InputError, match="2 processes cannot share batches of 25 evenly"):
        begin_training(network(), plan_of(settings, 0, None), World(0, 2))


def test_torchrun_trains_together_and_writes_one_checkpoint(tmp_path):
    some = images(120)
    x = some.x.permute(0, 2, 3, 1).numpy()
    np.savez(tmp_path / "toy.npz", x_train=x[:96], y_train=some.y[:96], x_test=x[96:], y_test=some.y[96:])
    words = [
        "-m", "--", "robench", "train", "--data", f"npz:{tmp_path}/toy.npz", "--arch", "mlp,width=8", "--epochs", "2", "--batch-size", "8",
        "--held-out", "8", "--eval-n", "8", "--objective", "free-at,replays=2", "--device", "cpu", "--out", str(tmp_path / "net.pt"),
    ]  # fmt: skip
    done = subprocess.run([*LAUNCHER, *words], check=False, env=ENV, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("mlp,width=8 on npz:toy") == 1
    assert sorted(path.name for path in tmp_path.glob("net.[!bl]*")) == ["net.curves.png", "net.json", "net.pt"]
    _, meta = checkpoint.read_checkpoint(tmp_path / "net.pt")
    assert meta["history"][-1]["terms"]["loss"] > 0


if __name__ == "__main__":
    work(Path(sys.argv[1]))
