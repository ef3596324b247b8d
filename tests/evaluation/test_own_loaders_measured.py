"""Runs on DataLoaders and data sets of the user's own: the verdicts of the same images in memory, and a state that goes on."""

import os

import pytest
import torch
from commandline import read, refused, robench
from owned import Fatal, Photos, Stream
from torch.utils.data import DataLoader

import robench as public
from robench.core.errors import InputError, UnfinishedError
from robench.models import build_network
from robench.models.checkpoint import read_checkpoint, save_checkpoint

SUITE = ["pgd,steps=2,restarts=2", "random-noise,t=0.2", "fog,severity=3", "saliency"]
MINE = """
import os, pathlib
from torch.utils.data import DataLoader
from owned import Fatal, Photos, Stream

loader = DataLoader(Photos(30, side=8), 4, shuffle=True, num_workers=2)
dataset = Photos(30, side=8)
stream = DataLoader(Stream(30), 4)
def arrays(split, data_dir): return Photos(30, side=8).x, Photos(30, side=8).y
def made(split, data_dir, *, workers=0): return DataLoader(Photos(30, side=8), 4, num_workers=workers)
def spawned(split, data_dir): return DataLoader(Photos(30, side=8), 4, num_workers=2, multiprocessing_context="spawn")
def normalised(split, data_dir): return Photos(30, side=8, change=lambda index, x: (x - 0.5) / 0.25)
def raises(index, x):
    if index == 17:
        raise KeyError("no such picture")
    return x
def breaks(split, data_dir): return Photos(30, side=8, change=raises)
def fatal(split, data_dir): return Photos(1001, side=8, change=Fatal(40, pathlib.Path(__file__).parent / "mark", os.getpid()))
"""


@pytest.fixture
def from_disk(monkeypatch):
    """Nothing of a data set is kept in memory unless the user says so."""
    monkeypatch.setattr("robench.data.own_loaders.MOST_IN_MEMORY", 0)


@pytest.fixture
def p(problem):
    return problem("convolutional", n=12, shape=(3, 32, 32))


def told(found):
    """Rows and samples without what depends on the clock."""
    return [str(row) for row in found.rows if row.metric != "seconds"], [str(sample) for sample in found.samples]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.usefixtures("from_disk")
def test_a_data_set_that_is_asked_for_images_gives_the_verdicts_of_the_same_images_in_memory(p, workers):
    photos = Photos(12)
    how = {"suite": SUITE, "eps": 0.02, "scores": "gini", "batch_size": 5}
    expected = public.evaluate(p.model, photos.x, photos.y, **how)
    for source in (DataLoader(photos, 5, shuffle=True, num_workers=workers), photos):
        found = public.evaluate(p.model, source, **how)
        assert found.images.is_stored
        assert told(found) == told(expected)


@pytest.mark.usefixtures("from_disk")
def test_own_ids_masks_and_several_models_go_along(p, problem):
    photos, ids, masks = Photos(12), torch.arange(12) + 5, torch.rand(12, 32, 32) < 0.3
    models = {"a": p.model, "b": problem("convolutional", n=12, shape=(3, 32, 32), seed=1).model}
    assert told(public.evaluate(models, photos, suite="random-noise,t=0.2", ids=ids)) == told(
        public.evaluate(models, photos.x, photos.y, suite="random-noise,t=0.2", ids=ids)
    )
    assert told(public.saliency(models, photos, scores="masks", masks=masks)) == told(
        public.saliency(models, photos.x, photos.y, scores="masks", masks=masks)
    )
    with pytest.raises(InputError, match="ids name an image twice"):
        public.evaluate(p.model, photos, suite="fgsm", ids=[1] * 12)
    with pytest.raises(InputError, match="brings its own y: leave y out"):
        public.evaluate(p.model, photos, photos.y, suite="fgsm")


def test_what_of_a_loader_is_not_used_is_said_and_a_stream_is_read_to_its_end(p):
    assert "its RandomSampler is not used" in public.evaluate(p.model, DataLoader(Photos(12), 5, shuffle=True), suite="fgsm").notes[0]
    found = public.corrupt(p.model, DataLoader(Stream(12), 5), corruptions="fog", severities=1)
    assert "was read to its end and is held in memory" in found.notes[0]
    assert told(found) == told(public.corrupt(p.model, Photos(12), corruptions="fog", severities=1))


def test_a_normalised_one_is_refused_from_python_too(p):
    for source in (Photos(12, change=lambda index, x: (x - 0.5) / 0.25), DataLoader(Stream(12), 5)):
        if isinstance(source, DataLoader):
            source.dataset.photos.x -= 0.5
        with pytest.raises(InputError, match=r"Normalize|normalisation"):
            public.evaluate(p.model, source, suite="fgsm")


@pytest.mark.usefixtures("from_disk")
def test_a_killed_worker_leaves_a_state_that_goes_on_to_the_same_verdicts(p, tmp_path):
    whole, mark = Photos(1001), tmp_path / "mark"
    broken = Photos(1001, change=Fatal(700, mark, os.getpid()))
    how = {"suite": "random-noise,t=0.2", "batch_size": 100}
    expected = public.evaluate(p.model, whole, **how)
    with pytest.raises(UnfinishedError, match="a worker process of the DataLoader ended before it was done"):
        public.evaluate(p.model, DataLoader(broken, 5, num_workers=2), folder=tmp_path / "run", **how)
    assert mark.exists()
    broken.asked.clear()
    found = public.evaluate(p.model, broken, folder=tmp_path / "run", resume=True, **how)
    assert told(found) == told(expected)
    assert len(broken.asked) < 500 + 8 + 2 * 1001  # what was measured is not asked for again in the clean pass


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """A file with loaders, in the folder where the commands run."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text(MINE)
    described = {"arch": "mlp", "classes": 10, "shape": [3, 8, 8], "activation": "relu", "mean": None, "std": None, "options": {}}
    save_checkpoint(tmp_path / "net.pt", build_network("mlp", classes=10, shape=(3, 8, 8)), {"model": described, "data": {}, "recipe": {}})
    return tmp_path


def samples(folder):
    """What a run found of each image."""
    return [{key: value for key, value in line.items() if key not in ("data", "split")} for line in read(folder / "samples.csv")]


def test_the_commands_measure_on_loaders_and_data_sets_by_name(mine):
    robench("eval", "net.pt", "--data", "mine.py:arrays", "--suite", "fgsm", "--out", "arrays", "--quiet")
    words = {
        "loader": (),
        "dataset": (),
        "made,workers=2": (),
        "made": ("--pixels", "disk"),
        "loader ": ("--pixels", "disk", "--workers", 2),
    }
    for name, more in words.items():
        robench("eval", "net.pt", "--data", f"mine.py:{name.strip()}", "--suite", "fgsm", "--out", f"out {name}", "--quiet", *more)
        assert samples(mine / f"out {name}") == samples(mine / "arrays")
    for command in (["attack", "--attack", "fgsm"], ["corrupt", "--corruption", "fog"], ["saliency", "--score", "gini"]):
        robench(
            command[0], "net.pt", *command[1:], "--data", "mine.py:loader", "--pixels", "disk", "--n", 5, "--quiet", "--out", command[0]
        )


@pytest.mark.parametrize("command", ["attack --attack fgsm", "corrupt --corruption fog", "saliency --score gini"])
def test_every_measuring_command_takes_a_loader(mine, command):
    name, *words = command.split()
    robench(name, "net.pt", *words, "--data", "mine.py:loader", "--pixels", "disk", "--n", 5, "--quiet", "--out", "out")
    assert all(row["data"].startswith("mine.py:loader") for row in read(mine / "out" / "rows.csv"))


def test_processes_that_would_not_know_the_file_are_forked(mine):
    words = ["eval", "net.pt", "--suite", "random-noise,t=0.2", "--n", 5, "--pixels", "disk"]
    said = robench(*words, "--data", "mine.py:spawned", "--out", "out").stderr
    assert "its worker processes are forked, as one that is started by spawn does not know the file" in " ".join(said.split())


def test_a_set_that_has_changed_is_no_longer_gone_on_with(mine):
    words = ["eval", "net.pt", "--suite", "fgsm", "--quiet", "--out", "run", "--data", "mine.py:dataset", "--pixels", "disk"]
    robench(*words, "--budget", "0.000001", code=2)
    (mine / "mine.py").write_text(
        MINE.replace("dataset = Photos(30, side=8)", "dataset = Photos(30, side=8, change=lambda index, x: x / 2)")
    )
    assert "the state of another run: its images is" in refused(*words, "--resume")


def test_a_training_takes_a_loader(mine):
    words = ["--objective", "standard", "--epochs", 1, "--eval-n", 4, "--suite", "fgsm", "--arch", "mlp,width=8", "--quiet"]
    told = []
    for name, more in {"arrays": (), "made": (), "made,workers=2": ("--pixels", "disk")}.items():
        robench("train", *words, "--held-out", 6, "--batch-size", 8, "--data", f"mine.py:{name}", "--out", f"{name}.pt", *more)
        told.append([tensor.tolist() for tensor in read_checkpoint(mine / f"{name}.pt")[0].values()])
    assert told[0] == told[1] == told[2]


def test_a_worker_that_is_killed_and_a_set_that_changes_end_a_command_in_one_sentence(mine):
    words = [
        "eval",
        "net.pt",
        "--suite",
        "random-noise,t=0.2",
        "--out",
        "run",
        "--quiet",
        "--pixels",
        "disk",
        "--n",
        1001,
        "--batch-size",
        20,
    ]
    ended = refused(*words, "--data", "mine.py:fatal", "--workers", 2)
    assert "a worker process of mine.py:fatal ended before it was done" in ended
    robench(*words, "--data", "mine.py:fatal", "--resume")
    robench(*words[:5], "whole", *words[6:], "--data", "mine.py:fatal")
    assert samples(mine / "run") == samples(mine / "whole")


def test_wrong_ones_are_refused_and_errors_of_their_own_are_raised(mine):
    words = ["eval", "net.pt", "--suite", "fgsm", "--quiet"]
    assert "they look normalised: take Normalize out" in refused(*words, "--data", "mine.py:normalised")
    assert "takes no options: options go to a function" in refused(*words, "--data", "mine.py:loader,size=3")
    assert "for images itself: let it leave such images out" in refused(*words, "--data", "mine.py:made", "--skip-damaged")
    assert "leave --pixels and --workers out" in refused(*words, "--data", "mine.py:stream", "--pixels", "disk")
    assert "mine.py:arrays returned it whole" in refused(*words, "--data", "mine.py:arrays", "--workers", 2)
    for more in ((), ("--pixels", "disk"), ("--pixels", "disk", "--workers", 2)):
        with pytest.raises(KeyError, match="no such picture") as error:
            robench(*words, "--data", "mine.py:breaks", *more, code=3)
        assert error.value.__notes__ == ["robench asked mine.py:breaks for image 17."]
