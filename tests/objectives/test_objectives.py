"""The base objectives, the sum with regularisers, and what every entry of the two dicts must keep to."""

from __future__ import annotations

import inspect
import re
from dataclasses import replace

import pytest
import torch
from batches import THREATS, batch_of, images, linear, net, unmade
from places import DOCS
from torch import Tensor, nn
from torch.nn import functional as F

from robench.cli.lists import list_entries
from robench.core.draws import Draws
from robench.core.errors import InputError
from robench.core.recipes import parse_recipe, resolve
from robench.core.threat import Threat
from robench.core.types import Batch
from robench.objectives import (
    OBJECTIVES,
    REGULARIZERS,
    Facts,
    default_options,
    facts_of,
    penalised_loss,
    refuse_unreachable,
    regularizer_notes,
    regularizers_of,
    weight_schedule,
)
from robench.objectives.second_order import differentiates_twice
from robench.objectives.standard import ce_at_images
from robench.training.settings import objective_sentence

GUIDE = DOCS / "adding-a-regularizer.md"


def draws_of(n: int = 6) -> Draws:
    return Draws(0, torch.arange(n), "train")


def batch_for(model: nn.Module, *, progress: float = 0.5, smoothing: float = 0.0) -> Batch:
    """A batch with a teacher."""
    teacher = net(nn.GELU()).eval().requires_grad_(False)
    return batch_of(model, *images(), Threat("linf", 8 / 255), progress=progress, smoothing=smoothing, teacher=teacher)


# the base objectives


def test_standard_training_is_label_smoothed_cross_entropy_on_the_images_themselves():
    model, (x, y) = net(), images()
    craft, loss, *_ = OBJECTIVES["standard"]()
    assert craft(model, unmade(x, y, THREATS[0])) is x
    batch = batch_for(model, smoothing=0.2)
    target = 0.8 * F.one_hot(y, 5) + 0.2 / 5
    expected = -(target * batch.logits.log_softmax(1)).sum(1).mean()
    value, terms = loss(model, batch)
    torch.testing.assert_close(value, expected)
    assert terms.keys() == {"ce"}
    assert terms["ce"] == value
    assert not terms["ce"].requires_grad


@pytest.mark.parametrize("name", OBJECTIVES)
@pytest.mark.parametrize("threat", THREATS, ids=lambda threat: threat.norm)
def test_every_objective_crafts_inside_the_threat_and_leaves_the_model_as_it_was(name, threat):
    model, (x, y) = net(nn.BatchNorm2d(4), nn.Dropout(0.5)), images()
    model[1].eval()
    model[0].bias.requires_grad_(False)
    modes, flags = [m.training for m in model.modules()], [p.requires_grad for p in model.parameters()]
    before, images_before = {name: value.clone() for name, value in model.state_dict().items()}, x.clone()
    objective = OBJECTIVES[name]()
    x_adv = objective.craft(model, unmade(x, y, threat))
    reach = Threat(threat.norm, 3 * threat.eps) if name == "n-fgsm" else threat  # which starts at 2 eps, and is not cut to eps
    assert reach.contains(x, x_adv).all()
    assert torch.equal(x, images_before)
    assert not x_adv.requires_grad
    assert torch.equal(objective.craft(model, unmade(x, y, threat)), x_adv)
    assert [m.training for m in model.modules()] == modes
    assert [p.requires_grad for p in model.parameters()] == flags
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize("name", OBJECTIVES)
def test_every_objective_takes_keyword_options_only(name):
    assert all(p.kind is p.KEYWORD_ONLY for p in inspect.signature(OBJECTIVES[name]).parameters.values())


def test_pgd_raises_the_cross_entropy_more_than_its_random_start():
    model, (x, y) = net(), images(64)
    threat = Threat("linf", 0.1)
    objective = OBJECTIVES["pgd-at"]()
    x_adv = objective.craft(model, unmade(x, y, threat))
    start = threat.sample(x, draws_of(64).child("craft", "craft"))
    loss = {name: F.cross_entropy(model(points), y, reduction="none") for name, points in (("x", x), ("start", start), ("end", x_adv))}
    assert (loss["end"] > loss["x"]).all()
    assert (loss["end"] > loss["start"]).all()


def test_pgd_reaches_the_linf_optimum_of_an_affine_model():
    generator = torch.Generator().manual_seed(3)
    weight, bias = torch.randn(2, 36, generator=generator, dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
    x, y = images()
    y, eps = y % 2, 0.1
    best = (x + eps * (weight[1 - y] - weight[y]).sign().view_as(x)).clamp(0, 1)
    x_adv = OBJECTIVES["pgd-at"]().craft(linear(weight, bias), unmade(x, y, Threat("linf", eps)))
    torch.testing.assert_close(x_adv, best, rtol=0, atol=1e-12)


def test_pgd_reaches_the_l2_optimum_of_an_affine_model():
    generator = torch.Generator().manual_seed(3)
    weight, bias = torch.randn(2, 36, generator=generator, dtype=torch.float64), torch.zeros(2, dtype=torch.float64)
    x, y, eps = torch.full((6, 1, 6, 6), 0.5, dtype=torch.float64), torch.arange(6) % 2, 0.3
    slope = weight[1 - y] - weight[y]
    x_adv = OBJECTIVES["pgd-at"](steps=10, step_size=eps).craft(linear(weight, bias), unmade(x, y, Threat("l2", eps)))
    gain = ((x_adv - x).flatten(1) * slope).sum(1) / (eps * slope.norm(dim=1))
    assert (gain > 0.99999).all()


def test_one_pgd_step_moves_by_the_step_size_and_the_default_is_two_and_a_half_eps_over_the_steps():
    x, y = torch.full((6, 1, 6, 6), 0.5, dtype=torch.float64), torch.arange(6) % 5
    threat, model, draws = Threat("linf", 0.1), net(), draws_of()
    start = threat.sample(x, draws.child("craft", "craft"))

    def moved(**options) -> Tensor:
        return (OBJECTIVES["pgd-at"](**options).craft(model, unmade(x, y, threat)) - start).abs()

    assert moved(steps=1, step_size=0.001).amax().item() == pytest.approx(0.001)
    assert moved(steps=50).amax() <= 0.2
    assert torch.equal(moved(steps=5), moved(steps=5, step_size=0.05))
    assert not torch.equal(moved(steps=5), moved(steps=5, step_size=0.04))


def test_pgd_gives_each_sample_the_same_point_in_any_batch():
    model, (x, y), threat = net(nn.BatchNorm2d(4)), images(), THREATS[0]
    craft = OBJECTIVES["pgd-at"]().craft
    rows = torch.tensor([4, 1])
    few = craft(model, unmade(x[rows], y[rows], threat, ids=rows))
    torch.testing.assert_close(few, craft(model, unmade(x, y, threat))[rows])


@pytest.mark.parametrize("options", [{"steps": 0}, {"steps": 2.5}, {"step_size": 0}, {"step_size": "long"}])
def test_wrong_pgd_options_are_refused(options):
    with pytest.raises(InputError, match="pgd-at must be"):
        OBJECTIVES["pgd-at"](**options)


def test_an_objective_is_made_from_a_sentence():
    objective = resolve(parse_recipe("pgd-at,steps=3,step-size=2/255"), OBJECTIVES, "objective")()
    x, y = images()
    made = OBJECTIVES["pgd-at"](steps=3, step_size=2 / 255)
    assert torch.equal(objective.craft(net(), unmade(x, y, THREATS[0])), made.craft(net(), unmade(x, y, THREATS[0])))


# the sum


def test_penalised_adds_weight_times_penalty_and_logs_the_penalty_without_its_weight():
    model = net()
    batch = batch_for(model)
    terms_of = {"a": (0.5, lambda model, batch: batch.logits.square().mean()), "b": (2.0, lambda model, batch: batch.logits.abs().mean())}
    total, terms = penalised_loss(ce_at_images, terms_of)(model, batch)
    expected = F.cross_entropy(batch.logits, batch.y) + 0.5 * batch.logits.square().mean() + 2 * batch.logits.abs().mean()
    torch.testing.assert_close(total, expected)
    assert list(terms) == ["ce", "a", "b"]
    assert terms["a"] == batch.logits.square().mean()
    assert not any(term.requires_grad for term in terms.values())


def test_penalised_without_regularisers_is_the_base_loss():
    model = net()
    batch = batch_for(model)
    assert penalised_loss(ce_at_images, {})(model, batch) == ce_at_images(model, batch)


@pytest.mark.parametrize(("progress", "weight"), [(0.0, 0.0), (0.125, 1.0), (0.25, 2.0), (0.9, 2.0)])
def test_the_weight_grows_in_a_line_over_the_warm_up_and_then_stays(progress, weight):
    model = net()
    batch = batch_for(model, progress=progress)
    total, terms = penalised_loss(ce_at_images, {"r": (weight_schedule(2.0, 0.25), lambda model, batch: batch.logits.square().mean())})(
        model, batch
    )
    torch.testing.assert_close(total, terms["ce"] + weight * terms["r"], check_dtype=False)


def test_a_weight_without_warm_up_is_whole_from_the_start():
    assert weight_schedule(0.3)(0.0) == 0.3


@pytest.mark.parametrize(("weight", "warmup"), [(-1, 0), (float("nan"), 0), (float("inf"), 0), (1, -0.1), (1, 1.5), (1, "slow")])
def test_wrong_weights_and_warm_ups_are_refused(weight, warmup):
    with pytest.raises(InputError, match="must be a finite number"):
        weight_schedule(weight, warmup)


@pytest.mark.parametrize(("value", "says"), [(torch.zeros(6), "a tensor of shape \\(6,\\)"), (1.5, "float"), (None, "NoneType")])
def test_a_penalty_that_is_no_scalar_tensor_is_refused(value, says):
    model = net()
    with pytest.raises(InputError, match=f"'mine' must return a scalar tensor, not {says}"):
        penalised_loss(ce_at_images, {"mine": (1.0, lambda model, batch: value)})(model, batch_for(model))


def test_sentences_name_regularisers_with_weight_warm_up_and_options():
    model = net()
    found = regularizers_of(["sagr=0.2,rho=0.3,warmup=0.5", "jacobian"])
    assert list(found) == ["sagr", "jacobian"]
    assert found["sagr"][0](0.25) == pytest.approx(0.1)
    assert found["jacobian"][0](0.0) == 0.01
    batch = batch_for(model)
    assert found["sagr"][1](model, batch) == REGULARIZERS["sagr"](model, batch, rho=0.3)
    assert found["sagr"][1](model, batch) != REGULARIZERS["sagr"](model, batch)


def test_sagr_warms_up_over_the_first_quarter_if_nothing_is_said():
    schedule = regularizers_of(["sagr"])["sagr"][0]
    assert [schedule(progress) / 0.1 for progress in (0.0, 0.125, 0.25, 0.75)] == [0, 0.5, 1, 1]


@pytest.mark.parametrize(
    ("sentences", "says"),
    [
        (["sager"], "unknown regulariser 'sager': did you mean 'sagr'"),
        (["sagr,roh=1"], "has no option 'roh': did you mean 'rho'"),
        (["sagr", "sagr=2"], "given twice"),
        (["sagr=-1"], "the weight of a regulariser"),
        (["nowhere.py:penalty"], "no such file"),
    ],
)
def test_wrong_sentences_are_refused(sentences, says):
    with pytest.raises(InputError, match=re.escape(says)):
        regularizers_of(sentences)


# every regulariser


def test_no_name_is_both_an_objective_and_a_regulariser():
    assert not OBJECTIVES.keys() & REGULARIZERS.keys()


@pytest.mark.parametrize("name", [*OBJECTIVES, *REGULARIZERS])
def test_the_facts_above_a_function_name_what_there_is(name):
    facts, options = facts_of(name), default_options(name)
    assert facts.base in OBJECTIVES
    assert {*facts.lengths, *facts.gradient_free_options} <= options.keys()
    assert facts.weight > 0
    assert 0 <= facts.warmup <= 1
    assert name in REGULARIZERS or replace(facts, teacher=False, defence=True, single_step=False, input_gradient=True) == Facts()


def test_the_facts_say_what_holds_of_each_by_name():
    everything = [*OBJECTIVES, *REGULARIZERS]
    assert [name for name in everything if facts_of(name).teacher] == ["hat", "igd"]
    assert [name for name in everything if not facts_of(name).defence] == ["standard", "l1", "l2"]
    assert [name for name in everything if not facts_of(name).input_gradient] == ["standard", "l1", "l2"]
    assert [name for name in everything if facts_of(name).single_step] == ["fgsm-at", "fgsm-rs", "n-fgsm", "free-at", "gradalign"]
    assert {name: facts_of(name).base for name in REGULARIZERS if facts_of(name).base != "standard"} == {
        "igd": "pgd-at", "emr": "pgd-at", "gradalign": "fgsm-at", "gini": "pgd-at",
    }  # fmt: skip


def test_a_function_with_its_facts_and_a_line_in_the_table_is_all_that_a_regulariser_takes(monkeypatch):
    @Facts(
        weight=0.25, warmup=0.5, base="trades", second_derivative=False, lengths=("h",), notes=lambda classes, **_: [f"{classes} classes"]
    )
    def mine(model, batch, *, h=0.1):
        """A penalty of nothing."""
        return batch.x.new_zeros(())

    monkeypatch.setitem(REGULARIZERS, "mine", mine)
    weight, penalty = regularizers_of(["mine,h=0.2"])["mine"]
    assert [weight(0.25), weight(0.75)] == [0.125, 0.25]
    assert penalty.keywords == {"h": 0.2}
    assert objective_sentence(None, ["mine"])[0] == "trades"
    assert not differentiates_twice(["mine"])
    assert regularizer_notes(["mine"], 3) == ["3 classes"]
    assert list_entries("regularizers")[-1] == ("mine", "A penalty of nothing.", "h=0.1")
    with pytest.raises(InputError, match="mine with h"):
        refuse_unreachable([parse_recipe("mine,h=99")], Threat("linf", 0.1), (3, 8, 8))


def test_of_a_function_of_the_users_own_the_defaults_are_known():
    assert facts_of("mine.py:sagr") == Facts()
    assert default_options("mine.py:sagr") == {}


@pytest.mark.parametrize("name", REGULARIZERS)
def test_every_regulariser_takes_the_model_and_the_batch_and_keyword_options(name):
    kinds = [p.kind for p in inspect.signature(REGULARIZERS[name]).parameters.values()]
    assert kinds[:2] == [inspect.Parameter.POSITIONAL_OR_KEYWORD] * 2
    assert set(kinds[2:]) <= {inspect.Parameter.KEYWORD_ONLY}


@pytest.mark.parametrize("name", REGULARIZERS)
@pytest.mark.parametrize("norm_layer", [nn.BatchNorm2d, nn.Identity])
def test_every_regulariser_is_a_repeatable_scalar_that_trains_the_weights_and_touches_nothing(name, norm_layer):
    model = net(norm_layer(4))
    batch = batch_for(model)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    value = REGULARIZERS[name](model, batch)
    assert value.dim() == 0
    assert value > 0
    torch.autograd.backward(value, inputs=list(model.parameters()), retain_graph=True)
    assert model[-1].weight.grad.abs().sum() > 0
    assert model[0].weight.grad.abs().sum() > 0
    assert batch.x_adv.grad is None
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())
    assert REGULARIZERS[name](model, batch) == value


@pytest.mark.parametrize("name", REGULARIZERS)
def test_a_few_steps_on_every_regulariser_lower_it(name):
    model = net()
    optimizer = torch.optim.SGD(model.parameters(), 0.05)

    def measure() -> float:
        return REGULARIZERS[name](model, batch_for(model)).item()

    before = measure()
    for _ in range(5):
        optimizer.zero_grad()
        torch.autograd.backward(REGULARIZERS[name](model, batch_for(model)), inputs=list(model.parameters()))
        optimizer.step()
    assert measure() < before


@pytest.mark.parametrize("name", REGULARIZERS)
@pytest.mark.parametrize("objective", OBJECTIVES)
def test_every_regulariser_runs_on_every_objective_and_adds_its_weight_times_itself(objective, name):
    model = net(nn.BatchNorm2d(4))
    base, (x, y) = OBJECTIVES[objective](), images()
    teacher = net(nn.GELU()).eval().requires_grad_(False)
    x_adv = base.craft(model, unmade(x, y, THREATS[0])).detach().requires_grad_()
    batch = replace(unmade(x, y, THREATS[0]), x_adv=x_adv, logits=model(x_adv), teacher=teacher)
    alone, _ = base.loss(model, batch)
    total, terms = penalised_loss(base.loss, {name: (0.5, REGULARIZERS[name])})(model, batch)
    torch.testing.assert_close(total, alone + 0.5 * terms[name])
    grads = torch.autograd.grad(total, list(model.parameters()))
    assert all(grad.isfinite().all() for grad in grads)


def test_drops_cut_a_weight_to_a_tenth_from_each_share_on():
    weight = regularizers_of(["jacobian=2,warmup=0.2,drops=0.5:3/4"])["jacobian"][0]
    assert [weight(progress) for progress in (0.1, 0.2, 0.49, 0.5, 0.75, 0.99)] == pytest.approx([1, 2, 2, 0.2, 0.02, 0.02])
    with pytest.raises(InputError, match="share"):
        regularizers_of(["jacobian,drops=0.5:2"])


# the page for those who add one


def test_the_example_of_the_guide_works_as_written(tmp_path):
    code = re.search(r"```python\n(.*?)```", GUIDE.read_text(), re.DOTALL)
    assert code is not None
    (tmp_path / "mine.py").write_text(code[1])
    generator = torch.Generator().manual_seed(4)
    weight = torch.randn(5, 36, generator=generator, dtype=torch.float64)
    model = linear(weight, torch.zeros(5))
    sentence = f"{tmp_path}/mine.py:logit_slope=0.5,at=clean,warmup=1"
    regularizers = regularizers_of([sentence])
    total, terms = penalised_loss(ce_at_images, regularizers)(model, batch_for(model, progress=0.5))
    _, y = images()
    expected = weight[y].square().sum(1).mean()
    torch.testing.assert_close(terms["mine.py:logit_slope"], expected)
    torch.testing.assert_close(total.detach(), terms["ce"] + 0.25 * expected)


def test_the_sentences_of_the_guide_are_understood(tmp_path, monkeypatch):
    text = GUIDE.read_text()
    code = re.search(r"```python\n(.*?)```", text, re.DOTALL)
    assert code is not None
    (tmp_path / "mine.py").write_text(code[1])
    monkeypatch.chdir(tmp_path)
    sentences = re.findall(r"--reg (\S+)", "".join(re.findall(r"```(?:sh|console)\n(.*?)```", text, re.DOTALL)))
    assert sentences
    for sentence in sentences:
        assert len(regularizers_of([sentence])) == 1
