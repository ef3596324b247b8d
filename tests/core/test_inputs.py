"""What a caller from Python may hand over: arrays, lists, words and plain functions give what tensors give, and the rest a sentence."""

from functools import partial

import numpy as np
import pytest
import torch
from torch import nn

import robench
from robench import evaluate
from robench.core.errors import InputError
from robench.core.inputs import as_radii
from robench.core.threat import Threat
from robench.data import load_images
from robench.models import load_with_origin as load_any
from robench.training.settings import resolved_settings


def verdicts(found):
    return [(sample.label, sample.clean_pred, sample.broken_by, sample.step) for sample in found.samples]


@pytest.fixture
def p(problem):
    return problem("convolutional", n=16)


quick = partial(evaluate, suite=["pgd,steps=3", "fgsm"], eps=0.1)


def test_numpy_lists_and_other_whole_types_give_the_verdicts_of_tensors(p):
    expected = verdicts(quick(p.model, p.x, p.y))
    assert {broken for _, _, broken, _ in expected} - {""}
    x = p.x.numpy()
    for y in (p.y.numpy(), p.y.int(), p.y.to(torch.uint8), p.y.tolist(), p.y.numpy().astype(np.int16), p.y.numpy().astype(">i4")):
        assert verdicts(quick(p.model, x, y)) == expected
    assert verdicts(quick(p.model, x.astype(np.float64), p.y)) == expected
    assert verdicts(quick(p.model, x[::-1][::-1], p.y, ids=np.arange(16))) == expected
    frozen = x.copy()
    frozen.flags.writeable = False
    assert verdicts(quick(p.model, frozen, p.y)) == expected
    images = (x * 255).round().astype(np.uint8)
    assert verdicts(quick(p.model, images, p.y)) == verdicts(quick(p.model, torch.from_numpy(images), p.y))


def test_a_model_in_double_precision_keeps_its_type(p):
    model = p.model.double()
    x, y = p.x.double(), model(p.x.double()).argmax(1)
    assert quick(model, x, y).accuracy("clean") == 1


def test_a_plain_function_is_measured_as_the_module_behind_it_and_a_note_says_so(p):
    expected = quick(p.model, p.x, p.y)
    called = quick(lambda x: p.model(x) + 0, p.x, p.y)
    assert verdicts(called) == verdicts(expected)
    assert any("plain function" in note for note in called.notes)
    assert not any("plain function" in note for note in expected.notes)
    method = quick(p.model.forward, p.x, p.y)
    assert verdicts(method) == verdicts(expected)
    assert not any("plain function" in note for note in method.notes)


def test_a_radius_may_be_written_as_people_write_it(p):
    assert as_radii("8/255") == as_radii(8 / 255) == as_radii(np.float64(8 / 255)) == as_radii(torch.tensor(8 / 255, dtype=torch.float64))
    assert as_radii("2/255,1/255") == as_radii(["1/255", 2 / 255]) == as_radii(np.array([2 / 255, 1 / 255])) == [1 / 255, 2 / 255]
    for wrong in (None, True, "big", "-1/255", float("nan"), "8/0", [0.1, None], -1, object()):
        with pytest.raises(InputError, match="eps must be a finite number"):
            as_radii(wrong)
    with pytest.raises(InputError, match="eps is empty"):
        as_radii([])
    words, number = quick(p.model, p.x, p.y, eps="8/255"), quick(p.model, p.x, p.y, eps=8 / 255)
    assert verdicts(words) == verdicts(number)
    assert words.accuracy("fgsm", "8/255") == number.accuracy("fgsm", 8 / 255) == number.accuracy("fgsm")


def test_paths_may_be_strings(p, tmp_path):
    quick(p.model, p.x, p.y, folder=str(tmp_path), save=str(tmp_path / "x_adv.npy"))
    assert np.load(tmp_path / "x_adv.npy").shape == tuple(p.x.shape)
    (tmp_path / "some.txt").write_text("3\n1\n")
    assert load_images("shapes", indices=str(tmp_path / "some.txt")).ids.tolist() == [3, 1]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"x": "photo.png"}, "x is of type str"),
        ({"x": [[1, 2], [3]]}, "x is of type list"),
        ({"x": torch.rand(16, 24, 24, 3)}, r"looks like \(N, H, W, C\): hand over x.permute\(0, 3, 1, 2\)"),
        ({"x": torch.zeros(16, 3, 8, 8, dtype=torch.int32)}, "x holds int32 numbers"),
        ({"x": torch.rand(3, 8, 8)}, r"a single image is handed over as x\[None\]"),
        ({"x": torch.rand(0, 3, 8, 8)}, "N > 0"),
        ({"y": torch.zeros(16)}, "y holds float32 numbers"),
        ({"y": torch.eye(16)}, r"y.argmax\(1\)"),
        ({"y": [0] * 15}, r"one label for each of the 16 images"),
        ({"y": None}, "y is of type NoneType"),
        ({"ids": [0.5] * 16}, "ids holds float64 numbers"),
        ({"model": "net.pt"}, r"robench.load_model\('net.pt'\)"),
        ({"model": nn.Flatten}, "the class Flatten: hand over an object of it"),
        ({"model": 3}, "of type int"),
        ({"model": {"state_dict": 1}}, "of type dict"),
        ({"suite": [3]}, "suite holds int"),
        ({"suite": ["pgdd"]}, "did you mean 'pgd'"),
        ({"folder": 3}, "folder is of type int"),
        ({"norm": "Linf"}, "unknown norm 'Linf'"),
        ({"engine": 3}, "unknown engine 3: choose one of"),
        ({"precision": 3}, "unknown precision 3: choose one of"),
        ({"x": torch.ones(16, 3, 8, 8, dtype=torch.uint8)}, "bytes of 0 and 1 alone, which is black: multiply them by 255"),
        ({"batch_size": "5"}, "batch_size must be a whole number of at least 1, not '5'"),
        ({"batch_size": 0}, "batch_size must be a whole number of at least 1, not 0"),
        ({"until": "0.03"}, "until must be a number, not '0.03'"),
        ({"seed": "5"}, "seed must be a whole number from 0 to"),
        ({"device": "gpu"}, "unknown device 'gpu': choose one of cpu, cuda, mps"),
        ({"device": "cuda:99"}, "there is no cuda:99 device here"),
    ],
)
def test_what_cannot_be_used_gets_a_sentence(p, change, sentence):
    words = {"model": p.model, "x": p.x, "y": p.y} | change
    with pytest.raises(InputError, match=sentence):
        quick(words.pop("model"), words.pop("x"), words.pop("y"), **words)


def test_a_plain_function_cannot_keep_a_state_that_would_have_to_know_it_again(p, tmp_path):
    with pytest.raises(InputError, match="must know its model by its weights"):
        quick(lambda x: p.model(x) + 0, p.x, p.y, folder=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_accuracy_that_was_not_measured_gets_a_sentence(p):
    found = quick(p.model, p.x, p.y)
    with pytest.raises(InputError, match=r"nothing here is called 'pgdd': did you mean 'pgd'\?"):
        found.accuracy("pgdd")
    with pytest.raises(InputError, match=r"'pgd' was not run at eps 0.2: choose one of 0.1"):
        found.accuracy("pgd", 0.2)


def test_a_training_takes_words_and_refuses_what_is_none(tmp_path):
    words = {"n_train": 300, "held_out": 50, "epochs": 1, "eval_n": 10, "suite": ["fgsm"]}
    done = robench.train("shapes", reg="l1=1e-6,l2", objective="standard", eps="8/255", out=str(tmp_path / "net.pt"), **words)
    assert done.path == tmp_path / "net.pt"
    assert (done.meta["recipe"]["reg"], done.meta["recipe"]["eps"]) == (["l1=1e-6", "l2"], 8 / 255)
    for wrong, sentence in (
        ({"epochs": "5"}, "epochs must be a whole number, not '5'"),
        ({"epochs": 2.5}, "epochs must be a whole number, not 2.5"),
        ({"lr": None, "momentum": True}, "momentum must be a number, not True"),
        ({"eps": "much"}, "eps must be a finite number"),
    ):
        with pytest.raises(InputError, match=sentence):
            resolved_settings("small", wrong)
    for wrong in ({"lr": float("inf")}, {"epochs": float("inf")}, {"mixup": 1e308}, {"momentum": 1}, {"weight_decay": float("nan")}):
        with pytest.raises(InputError, match="out of range"):
            resolved_settings("small", wrong)
    with pytest.raises(InputError, match="out is of type int"):
        robench.train("shapes", out=3)


def test_a_model_that_is_no_file_name_gets_a_sentence():
    with pytest.raises(InputError, match="of type Linear: name a file"):
        robench.load_model(nn.Linear(2, 2))
    with pytest.raises(InputError, match="of type NoneType"):
        load_any(None)


@pytest.mark.parametrize("seed", [-1, 2**32, 2**64 - 1, 1.5, True, None])
def test_a_seed_that_not_every_generator_takes_is_refused_by_all(p, seed):
    for call in (
        lambda: quick(p.model, p.x, p.y, seed=seed),
        lambda: robench.train("shapes", seed=seed),
        lambda: load_images("shapes", seed=seed),
    ):
        with pytest.raises(InputError, match="the seed must be a whole number from 0 to 4294967295"):
            call()


def test_the_largest_seed_trains(tmp_path):
    assert robench.train("shapes", seed=2**32 - 1, n_train=200, held_out=50, epochs=1, eval_n=10, suite=[], arch="cnn,dropout=0.1")


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"device": "gpu"}, "unknown device 'gpu'"),
        ({"n_train": "600"}, "n_train must be a whole number of at least 1, not '600'"),
        ({"arch": 3}, "arch must be a string, not 3"),
        ({"objective": 3}, "objective must be a string, not 3"),
        ({"optimizer": 3}, "optimizer must be a string, not 3"),
        ({"seed": 1.5}, "seed must be a whole number from 0 to 4294967295, not 1.5"),
        ({"eval_n": 0}, "eval_n must be a whole number of at least 1, not 0"),
        ({"data": 3}, "data must be a string, not 3"),
    ],
)
def test_a_training_that_cannot_be_gets_a_sentence(change, sentence):
    with pytest.raises(InputError, match=sentence):
        robench.train(**change)


def test_a_threat_takes_its_radius_as_a_number():
    for wrong in ("8/255", None, True, float("nan"), -1):
        with pytest.raises(InputError, match="eps must be a finite number of at least 0, not"):
            Threat("linf", wrong)
    assert Threat("linf", np.float32(0.5)) == Threat("linf", 0.5)


def test_numbers_of_numpy_count_as_numbers(p):
    assert verdicts(quick(p.model, p.x, p.y, batch_size=np.int64(5), seed=np.int64(0))) == verdicts(quick(p.model, p.x, p.y))
