"""Extra images take their share of every batch, under ids of their own, and nothing of them is held out or measured."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from robench import train
from robench.core.errors import InputError
from robench.data import Images
from robench.training.epochs import epoch_batches, fit, steps_per_epoch
from robench.training.extra_images import FIRST_EXTRA_ID, ImagesWithExtra, extra_source, joined_images
from robench.training.settings import plan_of, resolved_settings
from robench.training.states import restore_run, run_state
from robench.training.steps import begin_training
from robench.training.types import Step

WORDS = {"epochs": 2, "batch_size": 10, "probe_n": 8, "eps": 0.03, "lr": 0.02, "optimizer": "sgd", "schedule": "constant"}


def images(n=40, value=0, classes=("a", "b"), size=8):
    x = torch.full((n, 3, size, size), value, dtype=torch.uint8) + torch.arange(n, dtype=torch.uint8).view(-1, 1, 1, 1)
    return Images("toy", "train", x, torch.arange(n) % len(classes), torch.arange(n), tuple(classes))


def joined(share=0.7, batch_size=10):
    return joined_images(images(), images(30, 100), share, batch_size)


def plan(**changes):
    return plan_of(resolved_settings("small", {**WORDS, **changes})[0], 1, None)


def network():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        return nn.Sequential(nn.Flatten(), nn.Linear(192, 2))


def test_a_batch_has_the_share_and_an_epoch_is_that_of_the_data_set():
    both, chosen = joined(), plan()
    assert steps_per_epoch(chosen, both) == steps_per_epoch(chosen, images()) == 4
    first, second = (epoch_batches(chosen, both, 4, epoch) for epoch in (0, 1))
    for rows in (*first, *second):
        assert len(rows) == 10
        assert int((rows >= 40).sum()) == 7
    own = torch.cat(first)[torch.cat(first) < 40]
    assert len(own.unique()) == 12  # each once in an epoch
    assert not torch.equal(torch.cat(first), torch.cat(second))
    assert not bool((torch.stack(first) >= 40)[:, :7].all())  # neither part stands first


def test_pixels_labels_and_ids_are_those_of_each_set():
    both = joined()
    rows = torch.tensor([41, 3, 69, 0, 40])
    x = torch.cat([images().x, images(30, 100).x])[rows].float() / 255
    assert torch.equal(both.pixels(rows), x)
    assert torch.equal(both.pixels(rows[1:2]), x[1:2])
    assert both.y[rows].tolist() == [1, 1, 1, 0, 0]
    assert both.ids[rows].tolist() == [FIRST_EXTRA_ID + 1, 3, FIRST_EXTRA_ID + 29, 0, FIRST_EXTRA_ID]


@pytest.mark.parametrize("broken", [1, 5])
def test_a_training_goes_on_bit_by_bit(broken):
    chosen = plan(objective="fgsm-rs", augment="crop-flip", mixup=1.0, swa=0.5, guard="off")
    whole = begin_training(network(), chosen)
    steps = [event.terms for event in fit(whole, chosen, joined(), images()) if isinstance(event, Step)]
    first, second = begin_training(network(), chosen), begin_training(network(), chosen)
    part = [event.terms for event in itertools.islice(fit(first, chosen, joined(), images()), broken) if isinstance(event, Step)]
    restore_run(second, run_state(first))
    part += [event.terms for event in fit(second, chosen, joined(), images()) if isinstance(event, Step)]
    assert part == steps
    assert all(torch.equal(a, b) for a, b in zip(whole.average.state_dict().values(), second.average.state_dict().values(), strict=True))


@pytest.mark.parametrize(
    ("sentence", "expected"),
    [
        ("npz:a.npz", ("npz:a.npz", 0.7)),
        ("npz:a.npz,share=0.5", ("npz:a.npz", 0.5)),
        ("mine.py:digits,side=14,share=1/4,n=3", ("mine.py:digits,side=14,n=3", 0.25)),
    ],
)
def test_the_share_stands_among_the_options_of_the_set(sentence, expected):
    assert extra_source(sentence) == expected


@pytest.mark.parametrize(
    "sentence", ["npz:a.npz,share=1", "npz:a.npz,share=0", "share=0.5", "npz:a.npz,share=half", "cifar10,share=.1,share=.2"]
)
def test_a_share_that_is_none_is_refused(sentence):
    with pytest.raises(InputError, match="cannot read --extra"):
        extra_source(sentence)


def test_other_shapes_classes_and_shares_without_images_are_refused():
    with pytest.raises(InputError, match=r"of toy are 3x9x9, those of toy 3x8x8"):
        joined_images(images(), images(size=9), 0.5, 10)
    with pytest.raises(InputError, match="classes that toy has not, such as 'c'"):
        joined_images(images(), images(classes=("a", "c")), 0.5, 10)
    with pytest.raises(InputError, match="labels up to 2, toy has 2 classes"):
        joined_images(images(), images(classes=("0", "1", "2")), 0.5, 10)
    with pytest.raises(InputError, match="leaves out the extra images"):
        joined(0.05)


def test_classes_are_matched_by_name():
    assert joined_images(images(), images(classes=("b", "a")), 0.5, 10).extra.y[:3].tolist() == [1, 0, 1]
    assert isinstance(joined_images(images(), images(classes=("0",)), 0.5, 10), ImagesWithExtra)


def saved(folder, name, n, value, classes=3):
    generator = np.random.default_rng(value)
    x, y = generator.integers(0, 256, (n, 8, 8, 3), dtype=np.uint8), np.arange(n) % classes
    np.savez(folder / name, image=x, label=y)
    return f"npz:{folder / name}"


def test_train_takes_them_and_says_so_without_a_path(tmp_path):
    data, extra = saved(tmp_path, "own.npz", 60, 1), saved(tmp_path, "made.npz", 30, 2)
    words = {"arch": "mlp,width=8", "epochs": 1, "batch_size": 10, "eval_n": 4, "suite": "clean", "measure": "held-out", "held_out": 12}
    done = train(data, extra=f"{extra},share=0.5", reg="igd", out=tmp_path / "net.pt", **words)
    assert done.meta["data"]["n"] == 48
    assert done.meta["data"]["held_out"] == 12
    its = done.meta["data"]["extra"]
    assert (its["name"], its["n"], its["share"]) == ("npz:made", 30, 0.5)
    assert done.meta["recipe"]["extra"] == "npz:made,share=0.5"
    again = train(data, extra=f"{extra},share=0.5", reg="igd", out=tmp_path / "net.pt", resume=True, **words)
    assert again.evaluation == []  # it was finished
    saved(tmp_path, "made.npz", 30, 3)
    with pytest.raises(InputError, match="other settings"):
        train(data, extra=f"{extra},share=0.5", reg="igd", out=tmp_path / "net.pt", resume=True, **words)
    plain = train(data, **words)
    assert "extra" not in plain.meta["data"]
