"""The parameter-randomisation check: ranks as scipy has them, copies that are random, frozen and apart from the model."""

from __future__ import annotations

import copy
import math
import warnings
from dataclasses import replace

import pytest
import torch
from maps import asked, gradient, part
from scipy.stats import rankdata, spearmanr
from torch import Tensor, fx, nn

from robench.core.draws import Draws
from robench.core.errors import InputError
from robench.scores.randomisation import randomisation, randomised_copy, row_correlations, row_ranks


def states(model: nn.Module) -> dict[str, Tensor]:
    return {name: tensor.clone() for name, tensor in model.state_dict().items()}


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> list[str]:
    return [name for name in one if torch.equal(one[name], other[name])]


# Ranks


@pytest.mark.parametrize("levels", [1, 2, 7, 10**9])
def test_ranks_and_their_correlation_are_those_of_scipy(levels):
    g = torch.Generator().manual_seed(levels)
    a, b = (torch.randint(levels, (6, 200), generator=g).double() for _ in range(2))
    assert torch.equal(row_ranks(a), torch.from_numpy(rankdata(a.numpy(), axis=1)))
    found = row_correlations(row_ranks(a), row_ranks(b))
    if levels == 1:
        assert found.isnan().all()
        return
    theirs = torch.tensor([spearmanr(one, other).statistic for one, other in zip(a.numpy(), b.numpy(), strict=True)])
    assert torch.allclose(found, theirs, atol=1e-12)


@pytest.mark.parametrize("n", [2, 3, 1024, 50176])
def test_equal_rows_correlate_by_exactly_one_and_reversed_ones_by_minus_one(n):
    a = torch.rand(3, n, generator=torch.Generator().manual_seed(n)).double()
    assert row_correlations(row_ranks(a), row_ranks(a)).tolist() == [1.0] * 3
    assert torch.allclose(row_correlations(row_ranks(a), row_ranks(-a)), torch.tensor(-1.0).double(), atol=1e-12)


def test_rows_that_are_not_finite_have_no_ranks():
    a = torch.tensor([[1.0, 2.0, 3.0], [1.0, torch.nan, 3.0], [1.0, torch.inf, 3.0]]).double()
    assert row_ranks(a).isnan().any(1).tolist() == [False, True, True]
    assert row_correlations(row_ranks(a), row_ranks(a)).isnan().tolist() == [False, True, True]


# The copy


def test_the_model_stays_as_it_is_and_the_copy_is_frozen_in_eval_mode(problem):
    model = problem("convolutional").model.train().requires_grad_(True)
    before, state = states(model), torch.random.get_rng_state()
    twin = randomised_copy(model, 0)
    assert len(same(before, model.state_dict())) == len(before)
    assert all(module.training for module in model.modules())
    assert all(parameter.requires_grad for parameter in model.parameters())
    assert not any(module.training for module in twin.modules())
    assert not any(parameter.requires_grad for parameter in twin.parameters())
    assert torch.equal(state, torch.random.get_rng_state())


def test_all_layers_are_drawn_anew_and_normalisations_stay(problem):
    model = problem("convolutional").model
    kept = same(states(model), randomised_copy(model, 0).state_dict())
    assert sorted(kept) == ["1.bias", "1.num_batches_tracked", "1.running_mean", "1.running_var", "1.weight"]


def test_the_last_layer_alone_can_be_drawn(problem):
    model = problem("convolutional").model
    before, twin = states(model), randomised_copy(model, 0, "last").state_dict()
    assert sorted(set(before) - set(same(before, twin))) == ["6.bias", "6.weight"]
    assert torch.equal(twin["6.weight"], randomised_copy(model, 0, "all").state_dict()["6.weight"])


def test_new_weights_have_the_mean_and_the_spread_of_the_old_ones():
    model = nn.Sequential(nn.Linear(300, 400), nn.Linear(400, 5))
    model[0].weight.data.mul_(3).add_(0.7)
    weight = randomised_copy(model, 5)[0].weight
    old = model[0].weight.detach()
    assert weight.mean().item() == pytest.approx(old.mean().item(), abs=4 * old.std().item() / math.sqrt(120_000))
    assert weight.std().item() == pytest.approx(old.std().item(), rel=0.01)
    assert abs(torch.corrcoef(torch.stack((weight.flatten(), old.flatten())))[0, 1].item()) < 0.015


def test_constant_and_single_numbers_stay_what_they_are():
    model = nn.Sequential(nn.Linear(4, 1), nn.Linear(1, 3))
    model[1].bias.data.fill_(0.25)
    twin = randomised_copy(model, 0)
    assert torch.equal(twin[0].bias, model[0].bias)
    assert torch.equal(twin[1].bias, model[1].bias)
    assert not torch.equal(twin[1].weight, model[1].weight)


def test_weights_depend_on_seed_and_name_and_not_on_the_order_of_layers():
    first, second = nn.Linear(6, 6), nn.Linear(6, 6)
    one, other = nn.ModuleDict({"a": first, "b": second}), nn.ModuleDict({"b": second, "a": first})
    a, b = randomised_copy(one, 3).state_dict(), randomised_copy(other, 3).state_dict()
    assert sorted(same(a, b)) == ["a.bias", "a.weight", "b.bias", "b.weight"]
    assert not same(a, randomised_copy(one, 4).state_dict())
    twins = nn.ModuleDict({"a": first, "b": copy.deepcopy(first)})
    drawn = randomised_copy(twins, 3).state_dict()
    assert not torch.equal(drawn["a.weight"], drawn["b.weight"])


def test_tied_weights_stay_tied():
    model = nn.ModuleDict({"a": nn.Linear(4, 4), "b": nn.Linear(4, 4)})
    model["b"].weight = model["a"].weight
    twin = randomised_copy(model, 0)
    assert twin["a"].weight is twin["b"].weight
    assert not torch.equal(twin["a"].weight, model["a"].weight)


def test_weight_norm_counts_as_its_layer():
    model = nn.Sequential(nn.Linear(5, 6), nn.utils.parametrizations.weight_norm(nn.Linear(6, 4)))
    x = torch.rand(3, 5)
    before, last = states(model), randomised_copy(model, 0, "last")
    assert same(before, last.state_dict()) == ["0.weight", "0.bias"]
    assert not torch.allclose(last(x), model(x))


def test_half_precision_stays_half():
    twin = randomised_copy(nn.Sequential(nn.Linear(8, 8)).to(torch.bfloat16), 0)
    assert {parameter.dtype for parameter in twin.parameters()} == {torch.bfloat16}


def test_a_traced_graph_can_be_copied_and_drawn(problem):
    net = problem("convolutional")
    net.model.eval()
    expected = randomised_copy(net.model, 0)(net.x)
    traced = fx.symbolic_trace(net.model)
    before = traced(net.x)
    assert torch.allclose(randomised_copy(traced, 0)(net.x), expected, atol=1e-6)
    assert torch.equal(traced(net.x), before)


def test_a_torchscript_program_can_be_copied_and_drawn(problem):
    net = problem("convolutional")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is deprecated
        script = torch.jit.trace(net.model.eval(), net.x)
    before = script(net.x)
    assert torch.allclose(randomised_copy(script, 0)(net.x), randomised_copy(net.model, 0)(net.x), atol=1e-6)
    assert torch.equal(script(net.x), before)


def test_an_exported_program_can_be_copied_and_drawn(problem):
    from robench.models.exported import Exported

    net = problem("dense")
    program = torch.export.export(net.model.eval(), (net.x,))
    model = Exported(program.module(), 8, 8)
    before = model(net.x)
    twin = randomised_copy(model, 0)
    assert twin(net.x).isfinite().all()
    assert not torch.allclose(twin(net.x), before, atol=1e-2)
    assert torch.equal(model(net.x), before)


def test_a_rebuilt_network_gets_the_weights_that_the_network_itself_gets():
    from robench.explainers.rebuilt_models import explainable_model

    class Reused(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.relu, self.last = nn.Linear(12, 8), nn.ReLU(), nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            return self.last(self.relu(torch.roll(self.relu(self.first(x.flatten(1))) - 0.1, 1, 1)))

    model, x = Reused().eval().requires_grad_(False), torch.rand(20, 3, 2, 2)
    fit, notes = explainable_model("guided-backprop", model, x)
    assert notes
    before = fit(x)
    assert torch.allclose(randomised_copy(fit, 0)(x), randomised_copy(model, 0)(x), atol=1e-6)
    assert torch.equal(fit(x), before)


def test_a_model_without_matrices_or_with_a_graph_inside_is_refused():
    with pytest.raises(InputError, match="no parameters"):
        randomised_copy(nn.Sequential(nn.Flatten(), nn.BatchNorm1d(3)), 0)
    model = nn.Sequential(nn.Linear(3, 3))
    model.seen = model(torch.rand(1, 3))
    with pytest.raises(InputError, match="copy of the model"):
        randomised_copy(model, 0)
    with pytest.raises(InputError, match="choice of layers"):
        randomised_copy(nn.Linear(2, 2), 0, "first")


def test_a_deep_residual_network_stays_in_range_under_random_weights():
    from torchvision.models.resnet import BasicBlock, ResNet

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, x = ResNet(BasicBlock, [3, 3, 3, 3], num_classes=10), torch.rand(32, 3, 32, 32)
    with torch.no_grad():
        for _ in range(20):  # statistics that fit the weights
            model(x)
    trained, drawn = model.eval()(x), randomised_copy(model, 0)(x)
    assert 0.01 < (drawn.std(0).mean() / trained.std(0).mean()).item() < 100


# The score


@pytest.mark.parametrize("layers", ["all", "last"])
def test_a_method_that_ignores_the_model_scores_exactly_one(problem, layers):
    edges = asked(problem("convolutional"), lambda model, x, target, draws: x - x.roll(1, 3))
    noise = asked(problem("convolutional"), lambda model, x, target, draws: draws.child("n").normal(tuple(x.shape[1:])))
    for measure in ("spearman", "spearman-signed"):
        assert randomisation(edges, layers=layers, measure=measure).tolist() == [1.0] * 16
        assert randomisation(noise, layers=layers, measure=measure).tolist() == [1.0] * 16


@pytest.mark.parametrize("measure", ["spearman", "spearman-signed"])
def test_the_gradient_of_a_linear_model_has_nothing_in_common_with_its_random_copy(problem, measure):
    lin = problem("linear", shape=(3, 40, 40), n=5)
    found = randomisation(asked(lin), measure=measure)
    assert found.abs().max() < 4 / 40  # the standard deviation is 1 / 40


def test_it_is_the_rank_correlation_of_the_two_maps(problem):
    net = asked(problem("convolutional"))
    twin = gradient(randomised_copy(net.model, 0, "last"), net.x, net.target, None)
    for measure, keyed in (("spearman", lambda maps: maps.abs().sum(1)), ("spearman-signed", lambda maps: maps.sum(1))):
        pairs = zip(keyed(net.maps).flatten(1).numpy(), keyed(twin).flatten(1).numpy(), strict=True)
        theirs = torch.tensor([spearmanr(one, other).statistic for one, other in pairs])
        assert torch.allclose(randomisation(net, layers="last", measure=measure), theirs, atol=1e-3)


def test_maps_without_an_order_have_no_score(problem):
    def broken(model, x, target, draws):
        maps = gradient(model, x, target, draws)
        maps[draws.ids == 1] = 0
        maps[draws.ids == 3] = 0.25
        maps[draws.ids == 6] = torch.nan
        return maps

    net = asked(problem("convolutional"))
    found = randomisation(replace(net, explain=broken))
    assert found.isnan().nonzero().flatten().tolist() == [1, 3, 6]
    assert torch.equal(found[7:], randomisation(net)[7:])


def test_halves_and_single_images_score_as_the_whole_does(problem):
    net = asked(problem("convolutional", n=17))
    whole = randomisation(net)
    halves = torch.cat([randomisation(part(net, keep)) for keep in (slice(0, 8), slice(8, 17))])
    assert whole.shape == (17,)
    assert whole.dtype == torch.float64
    assert torch.allclose(whole, halves, atol=1e-3)
    assert torch.allclose(whole[3:4], randomisation(part(net, slice(3, 4))), atol=1e-3)


def test_the_seed_of_the_draws_chooses_the_weights(problem):
    net = asked(problem("convolutional"))
    again = replace(net, draws=Draws(0, net.draws.ids, "another key"))
    other = replace(net, draws=Draws(1, net.draws.ids, net.draws.key))
    assert torch.equal(randomisation(net), randomisation(again))
    assert not torch.allclose(randomisation(net), randomisation(other), atol=1e-2)


def test_the_model_is_left_alone_by_the_score(problem):
    net = asked(problem("convolutional"))
    before = states(net.model)
    randomisation(net)
    assert len(same(before, net.model.state_dict())) == len(before)
    assert all(parameter.grad is None for parameter in net.model.parameters())


@pytest.mark.parametrize(("options", "word"), [({"layers": "first"}, "layers"), ({"measure": "pearson"}, "measure")])
def test_a_wrong_option_is_named(problem, options, word):
    with pytest.raises(InputError, match=word):
        randomisation(asked(problem("linear")), **options)
