"""Recipes: how sentences on the command line are read, looked up and bound."""

from functools import partial

import pytest
import torch

from robench.attacks import ATTACKS
from robench.core.errors import InputError
from robench.core.recipes import Recipe, did_you_mean, eps_text, lookup, parse_fraction, parse_recipe, resolve, setting_text, split_recipes
from robench.core.synonyms import ABSENT, OTHER_NAMES, OTHER_OPTION_HINTS
from robench.corruptions import CORRUPTIONS
from robench.evaluation.suites import SUITES
from robench.explainers import EXPLAINERS
from robench.objectives import OBJECTIVES, REGULARIZERS
from robench.probes import PROBES
from robench.scores import SCORES


def attack(model, *, steps=10, loss="ce"):
    return model, steps, loss


def test_a_sentence_is_a_name_a_weight_and_options():
    assert parse_recipe("pgd") == Recipe("pgd")
    assert parse_recipe("sagr=0.1") == Recipe("sagr", 0.1)
    assert parse_recipe("sagr=1/4,rho=0.3,sign=positive,step-size=2/255") == Recipe(
        "sagr", 0.25, {"rho": 0.3, "sign": "positive", "step_size": 2 / 255}
    )
    assert parse_recipe("pgd,steps=50,random_start=false,target=3").options == {"steps": 50, "random_start": False, "target": 3}
    assert parse_recipe("x,rho=inf").options == {"rho": float("inf")}


@pytest.mark.parametrize("sentence", ["", ",", "=1", "pgd,", "pgd,steps", "pgd,=3", "pgd,steps=", "sagr=", "sagr=big", "sagr=true"])
def test_what_cannot_be_read_is_refused_with_a_sentence(sentence):
    with pytest.raises(InputError, match="cannot read"):
        parse_recipe(sentence)


@pytest.mark.parametrize("sentence", ["pgd,steps=3,steps=4", "sagr=0.1,step-size=1,step_size=1", "cnn,width=8,depth=2,width=8"])
def test_an_option_that_is_given_twice_is_refused(sentence):
    with pytest.raises(InputError, match="twice: give each option once"):
        parse_recipe(sentence)


@pytest.mark.parametrize(("text", "value"), [("8/255", 8 / 255), ("0.3", 0.3), ("1e-3", 1e-3), ("0", 0.0), ("-1/2", -0.5)])
def test_fractions_are_understood(text, value):
    assert parse_fraction(text) == value


@pytest.mark.parametrize(
    ("eps", "text"),
    [
        (8 / 255, "8/255"), (0.25 / 255, "0.25/255"), (1.5 / 255, "1.5/255"), (128 / 255, "128/255"), (0.1 + 0.2, "0.3"), (0.3, "0.3"),
        (0.2, "0.2"), (51 / 255, "0.2"), (0.05, "0.05"), (0.0, "0"), (1.0, "1"), (2.0, "2"), (12.0, "12"), (0.03137, "0.03137"),
        (0.123456789, "0.123457"), (float(torch.tensor(8 / 255)), "8/255"), (1e-9, "1e-09"),
    ],
)  # fmt: skip
def test_a_radius_is_told_as_people_write_it(eps, text):
    assert eps_text(eps) == text
    assert parse_fraction(text) == pytest.approx(eps, rel=1e-5)


@pytest.mark.parametrize("text", ["8/0", "a/2", "", "1/", "nan", "inf", "1/2/3", "8/0.0"])
def test_what_is_no_fraction_raises(text):
    with pytest.raises(ValueError, match=r"number|divides"):
        parse_fraction(text)


def test_unknown_names_come_with_a_suggestion():
    with pytest.raises(InputError, match="did you mean 'square'"):
        lookup("sqare", {"square": 1, "pgd": 2}, "attack")
    with pytest.raises(InputError, match="choose one of pgd, square"):
        lookup("zzz", {"square": 1, "pgd": 2}, "attack")


@pytest.mark.parametrize(
    ("name", "known", "end"),
    [
        ("gradient", EXPLAINERS, "did you mean 'saliency'?"),
        ("vanilla", EXPLAINERS, "did you mean 'saliency'?"),
        ("ig", EXPLAINERS, "did you mean 'integrated-gradients'?"),
        ("GradCAM", EXPLAINERS, "did you mean 'grad-cam'?"),
        ("smooth_grad", EXPLAINERS, "did you mean 'smoothgrad'?"),
        ("shap", EXPLAINERS, "did you mean 'kernel-shap' or 'gradient-shap'?"),
        ("rise", EXPLAINERS, "there is none here, and 'occlusion' or 'shapley-sampling' comes nearest"),
        ("bim", ATTACKS, "did you mean 'pgd'?"),
        ("cw", ATTACKS, "there is none here, and 'pgd-margin' or 'apgd,loss=margin' comes nearest"),
        ("jpeg", CORRUPTIONS, "did you mean 'jpeg_compression'?"),
        ("gaussian-noise", CORRUPTIONS, "did you mean 'gaussian_noise'?"),
        ("input-gradient", REGULARIZERS, "did you mean 'double-backprop'?"),
        ("weight-decay", REGULARIZERS, "did you mean 'l2'?"),
        ("fgsm", OBJECTIVES, "did you mean 'fgsm-at'?"),
        ("natural", OBJECTIVES, "did you mean 'standard'?"),
        ("inductive-noise-1", PROBES, "did you mean 'inductive-noise'?"),
    ],
)
def test_names_of_the_field_are_told_ours(name, known, end):
    assert did_you_mean(name, known) == f": {end}"


def test_every_name_that_is_told_exists():
    everything = {*EXPLAINERS, *ATTACKS, *CORRUPTIONS, *REGULARIZERS, *OBJECTIVES, *PROBES, *SCORES, *SUITES, "nineteen"}
    told = {ours for names in OTHER_NAMES.values() for ours in names}
    told |= {ours.partition(",")[0] for names in ABSENT.values() for ours in names} - {"transfer:MODEL"}
    assert told <= everything
    assert not {name for name in ABSENT if name in everything}
    assert set(OTHER_OPTION_HINTS["attack"]) <= set(SUITES)
    assert set(OTHER_OPTION_HINTS["regulariser"]) <= set(OBJECTIVES)
    assert set(OTHER_OPTION_HINTS["objective"]) <= set(REGULARIZERS)


def test_a_name_of_another_option_is_told_where_it_goes():
    with pytest.raises(InputError, match="it is a suite: robench eval MODEL --suite autoattack"):
        lookup("autoattack", ATTACKS, "attack")
    with pytest.raises(InputError, match="it is an objective: --objective trades"):
        lookup("trades", REGULARIZERS, "regulariser")


def test_sentences_joined_by_commas_come_apart_and_keep_their_options():
    assert split_recipes(["a,b", "c"]) == ["a", "b", "c"]
    assert split_recipes(["integrated-gradients,baseline=mean", "saliency"]) == ["integrated-gradients,baseline=mean", "saliency"]
    assert split_recipes(["occlusion,block=2,stride=1,saliency,smoothgrad,samples=5"]) == [
        "occlusion,block=2,stride=1", "saliency", "smoothgrad,samples=5",
    ]  # fmt: skip
    assert split_recipes(["sagr=0.1,rho=0.3,l2"]) == ["sagr=0.1,rho=0.3", "l2"]
    with pytest.raises(InputError, match="cannot read ''"):
        [parse_recipe(sentence) for sentence in split_recipes(["a,"])]
    with pytest.raises(InputError, match="to ask for the penalty 'b' as well, repeat the option"):
        resolve(parse_recipe("a,b=1"), {"a": attack, "b": attack}, "penalty")


def test_options_are_bound_and_unknown_ones_refused():
    assert resolve(parse_recipe("a,steps=5"), {"a": attack}, "attack")("m") == ("m", 5, "ce")
    with pytest.raises(InputError, match=r"no option 'step': did you mean 'steps'"):
        resolve(parse_recipe("a,step=5"), {"a": attack}, "attack")


def test_what_a_name_settles_cannot_be_changed_and_everything_is_told():
    table = {"a": attack, "a-20": partial(attack, steps=20)}
    assert setting_text(resolve(parse_recipe("a-20,loss=dlr"), table, "attack")) == "steps=20 loss=dlr"
    with pytest.raises(InputError, match="means steps=20"):
        resolve(parse_recipe("a-20,steps=5"), table, "attack")


def test_an_option_without_a_default_must_be_given():
    def strict(model, *, budget):
        return budget

    assert resolve(parse_recipe("s,budget=3"), {"s": strict}, "attack")("m") == 3
    with pytest.raises(InputError, match="needs a value for its option 'budget'"):
        resolve(parse_recipe("s"), {"s": strict}, "attack")


def test_a_function_of_the_users_own_file_is_found_and_may_import_its_neighbours(tmp_path):
    (tmp_path / "neighbour_of_mine.py").write_text("VALUE = 7\n")
    file = tmp_path / "mine.py"
    file.write_text("from neighbour_of_mine import VALUE\ndef mine(model, batch, *, k=1):\n    return model, k, VALUE\n")
    recipe = parse_recipe(f"{file}:mine,k=3")
    assert resolve(recipe, {}, "regulariser")("m", None) == ("m", 3, 7)
    assert recipe.label == "mine.py:mine"


@pytest.mark.parametrize(
    ("text", "name", "sentence"),
    [
        ("def f(): pass", "g", "has no function 'g'"),
        ("1 +", "f", "failed while it was loaded: SyntaxError"),
        ("f = 3", "f", "no function"),
        ("\n\n1 / 0", "f", "failed while it was loaded in line 3: ZeroDivisionError"),
    ],
)
def test_a_bad_file_of_the_user_is_named(tmp_path, text, name, sentence):
    file = tmp_path / "bad.py"
    file.write_text(text)
    with pytest.raises(InputError, match=sentence):
        resolve(parse_recipe(f"{file}:{name}"), {}, "attack")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match="no such file"):
        resolve(parse_recipe(f"{tmp_path}/none.py:f"), {}, "attack")


def test_a_function_of_the_users_own_must_take_what_it_is_called_with(tmp_path):
    file = tmp_path / "mine.py"
    file.write_text(
        "def few(model, x): pass\ndef threatened(model, x, y, threat): pass\ndef fine(model, x, y, draws, extra=0, *, k): pass\n"
    )
    with pytest.raises(InputError, match=r"mine.py:few\(model, x\) cannot be used: attacks are called as \(model, x, y, threat, draws"):
        resolve(parse_recipe(f"{file}:few"), {}, "attack")
    with pytest.raises(InputError, match="regularisers are called as"):
        resolve(parse_recipe(f"{file}:threatened"), {}, "regulariser")
    assert callable(resolve(parse_recipe(f"{file}:fine,k=1"), {}, "probe"))


def test_options_of_a_function_of_the_users_own_are_of_the_kind_of_their_default(tmp_path):
    file = tmp_path / "own.py"
    file.write_text(
        "from __future__ import annotations\n"
        "def attack(model, x, y, threat, draws, *, steps: int = 3, rate: float = 1, fast=False, target=None, loss='ce'): ...\n"
    )
    for words in ("steps=5", "rate=0.5", "rate=2", "fast=true", "target=2", "target=x", "loss=margin"):
        resolve(parse_recipe(f"{file}:attack,{words}"), {}, "attack")
    for words, sentence in (
        ("steps=x", "steps of own.py:attack must be a whole number, as its default 3 is, not 'x'"),
        ("steps=2.5", "a whole number, as its default 3 is, not 2.5"),
        ("steps=true", "a whole number, as its default 3 is, not True"),
        ("rate=big", "rate of own.py:attack must be a number, as its default 1 is, not 'big'"),
        ("fast=1", "fast of own.py:attack must be true or false, as its default False is, not 1"),
    ):
        with pytest.raises(InputError, match=sentence):
            resolve(parse_recipe(f"{file}:attack,{words}"), {}, "attack")


def test_where_there_is_no_name_none_is_offered():
    assert did_you_mean("foo", []) == ": there are none"
    assert did_you_mean("foo", ["bar"]) == ": choose one of bar"
