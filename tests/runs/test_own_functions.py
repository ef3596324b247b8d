"""Own attacks, probes, methods and scores: what they change in place reaches nobody, and what they claim is checked."""

import pytest
import torch
from changes import audited, changed
from torch import nn

from robench import evaluate, probe
from robench.core.errors import InputError
from robench.core.recipes import parse_recipe

OWN = """
import torch
from robench.core.types import AttackResult, Level

def found(x_adv, n=None):
    zero = torch.zeros(len(x_adv) if n is None else n, dtype=torch.int64)
    return AttackResult(x_adv, zero == 0, zero, zero, zero, zero != 0)

def blanks(model, x, y, threat, draws):
    y.zero_(); x.zero_()
    return found(x)

def relabels(model, x, y, threat, draws):
    y.add_(1).remainder_(2)
    return found(x)

def unlearns(model, x, y, threat, draws):
    for p in model.parameters():
        p.data.zero_()
    return found(x)

def not_a_number(model, x, y, threat, draws):
    return found(x * float("nan"))

def short(model, x, y, threat, draws):
    return found(x, 1)

def numpy(model, x, y, threat, draws):
    return AttackResult(x.numpy(), *[torch.zeros(len(x))] * 5)

def level(x, *, share=0.0, n=None):
    zero = torch.zeros(len(x) if n is None else n, dtype=torch.int64)
    return Level("t=1", 0, x, zero == 0, torch.full((len(x),), share), zero, zero)

def liar(model, x, y, draws): yield level(x)
def half_blank(model, x, y, draws):
    x.zero_(); y.zero_()
    yield level(x)
def unlearning(model, x, y, draws):
    for p in model.parameters():
        p.data.zero_()
    yield level(x)
def two_few(model, x, y, draws): yield level(x, n=1)
def too_much(model, x, y, draws): yield level(x, share=7.0)
def no_share(model, x, y, draws): yield level(x, share=float("nan"))
def bright(model, x, y, draws): yield level(x + 1)
def twice(model, x, y, draws):
    yield level(x)
    yield level(x)
def silent(model, x, y, draws): yield from ()

def erasing(model, x, target, draws):
    maps = x.clone()
    x.zero_(); target.zero_()
    return maps

def forgets(model, x, target, draws):
    for p in model.parameters():
        p.data.zero_()
    return x

def destroys(explained):
    for tensor in (explained.maps, explained.x, explained.y, explained.target, explained.sizes):
        tensor.zero_()
    return explained.maps.flatten(1).sum(1)
"""


class Bright(nn.Module):
    """Class 1 where the first pixel is above the weight, class 0 elsewhere."""

    def __init__(self):
        super().__init__()
        self.level = nn.Parameter(torch.tensor(0.5))

    def forward(self, x):
        score = x[:, 0, 0, 0] - self.level
        return torch.stack((-score, score), 1)


@pytest.fixture
def own(tmp_path):
    file = tmp_path / "own.py"
    file.write_text(OWN)
    return lambda name: f"{file}:{name}"


@pytest.fixture
def images():
    x = torch.rand(20, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    return x, (x[:, 0, 0, 0] > 0.5).long()


def attacked(images, name, **words):
    x, y = images
    before, labels = x.clone(), y.clone()
    found = evaluate(Bright(), x, y, suite=[parse_recipe(name)], eps=0.01, **words)
    assert torch.equal(x, before)
    assert torch.equal(y, labels)
    return found


def test_an_attack_that_changes_images_in_place_is_judged_by_the_clean_ones(images, own):
    found = attacked(images, own("blanks"))
    near = (images[1] == 1) & (images[0][:, 0, 0, 0] - 0.01 < 0.5)
    assert found.accuracy("own.py:blanks") == 1 - int(near.sum()) / 20  # zero images, brought back to eps around the clean ones
    assert any("20 points lay outside" in flag for flag in found.flags)


def test_an_attack_that_changes_labels_in_place_breaks_nothing(images, own):
    assert attacked(images, own("relabels")).accuracy("own.py:relabels") == 1


def test_weights_that_an_attack_changes_are_put_back_and_told(images, own):
    model = Bright()
    found = evaluate(model, *images, suite=[parse_recipe(own("unlearns")), parse_recipe("noise")], eps=1e-6)
    assert model.level.item() == 0.5
    assert found.accuracy("own.py:unlearns") == 1
    assert [flag for flag in found.flags if "weights" in flag] == [
        "own.py:unlearns: it changed the weights of the model, which were put back: no attack, probe, method or score may change them"
    ]


def test_points_that_are_not_finite_are_called_so(images, own):
    flags = attacked(images, own("not_a_number")).flags
    assert any("20 points lay outside the threat, 20 of them with NaN or infinite pixels" in flag for flag in flags)


@pytest.mark.parametrize(("name", "sentence"), [("short", r"fooled of shape \(1,\) for 20 images"), ("numpy", "x_adv as ndarray")])
def test_what_an_attack_hands_back_has_one_number_an_image(images, own, name, sentence):
    with pytest.raises(InputError, match=sentence):
        attacked(images, own(name))


def probed(images, name):
    found = probe(Bright(), *images, name)
    (rate,) = [row.value for row in found.rows if row.metric == "error_rate"]
    return rate, found.flags


def test_the_model_is_asked_again_what_a_probe_has_done(images, own):
    rate, flags = probed(images, own("liar"))
    assert rate == 0
    assert ["asked again" in flag for flag in flags] == [True]
    assert probed(images, own("half_blank"))[0] == pytest.approx(float((images[1] == 1).double().mean()))
    rate, flags = probed(images, own("unlearning"))
    assert any("weights" in flag for flag in flags)


def test_what_a_probe_made_is_not_believed_before_an_audit_either(images, own):
    assert not changed(own("liar"), Bright(), *images).fallen.any()
    done = audited(Bright(), *images, scores="gini", against=own("liar"))
    assert any("own.py:liar" in flag and "asked again" in flag for flag in done.flags)


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("two_few", "fooled of shape"),
        ("too_much", "share outside"),
        ("no_share", "share outside"),
        ("bright", r"do not lie in \[0, 1\]"),
        ("twice", "repeat 0 twice"),
        ("silent", "no level"),
    ],
)
def test_what_is_no_level_of_these_images_is_refused(images, own, name, sentence):
    with pytest.raises(InputError, match=sentence):
        probed(images, own(name))


def test_a_score_and_a_method_that_change_things_in_place_disturb_no_other_score(images, own):
    x, y = images

    def gini(methods, scores):
        (some,) = audited(Bright(), x, y, methods=methods, scores=scores).methods
        return some

    plain = gini([own("erasing")], ["gini", "alignment"])
    disturbed = gini([own("erasing")], [own("destroys"), "gini", "alignment"])
    assert not disturbed.zero.any()
    assert torch.equal(plain.target, y)
    assert torch.equal(disturbed.values["gini"], plain.values["gini"])
    assert torch.equal(disturbed.values["alignment"], plain.values["alignment"])
    torch.testing.assert_close(plain.values["alignment"], torch.ones(20, dtype=torch.float64))  # the maps are the images


def test_weights_that_a_method_changes_are_put_back_and_told(images, own):
    model = Bright()
    found = audited(model, *images, methods=own("forgets"), scores="gini")
    assert model.level.item() == 0.5
    assert ["own.py:forgets: it changed the weights" in flag for flag in found.flags] == [True]


def test_a_model_with_one_output_is_refused(images):
    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 1))
    with pytest.raises(InputError, match="returns 1 output for each image"):
        evaluate(model, images[0], torch.zeros(20).long(), suite="smoke")
    with pytest.raises(InputError, match="returns 1 output for each image"):
        probe(model, images[0], torch.zeros(20).long(), "random-noise")
