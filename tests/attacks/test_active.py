"""The active set: flags restored, calls padded, passes counted, fallen samples gone, non-finite points never believed."""

import itertools

import pytest
import torch
from recording import Watched
from torch import nn

from robench.attacks.active import Search
from robench.attacks.losses import ce
from robench.attacks.pgd import pgd
from robench.core.model_calls import LEAST_ROWS, freeze_model
from robench.core.threat import Threat


class NanWhereWrong(nn.Module):
    """The model, but with NaN (or infinite) logits wherever its label is not 0."""

    def __init__(self, model, bad=float("nan")):
        super().__init__()
        self.model, self.bad = model, bad

    def forward(self, x):
        logits = self.model(x)
        return torch.where((logits.argmax(1) == 0)[:, None], logits, logits.detach() * 0 + self.bad)


def test_frozen_gives_back_every_mode_and_every_flag_also_after_an_exception():
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2), nn.Dropout())
    model[1].eval()
    model[0].bias.requires_grad_(False)
    with freeze_model(model):
        assert not any(module.training for module in model.modules())
        assert not any(parameter.requires_grad for parameter in model.parameters())
    with pytest.raises(RuntimeError, match="mat1"), freeze_model(model):
        model(torch.ones(1, 3))
    assert [module.training for module in model.modules()] == [True, True, False, True]
    assert {name: p.requires_grad for name, p in model.named_parameters()} == {
        "0.weight": True,
        "0.bias": False,
        "1.weight": True,
        "1.bias": True,
    }


def test_an_attack_on_a_training_network_sees_eval_mode_and_leaves_its_batch_statistics_and_gradients_alone(problem):
    p = problem("convolutional")
    p.model.train()
    before = {name: value.clone() for name, value in p.model.state_dict().items()}
    with freeze_model(p.model):
        pgd(p.model, p.x, p.y, Threat("linf", 0.05), p.draws())
    assert p.model.training
    assert all(torch.equal(before[name], value) for name, value in p.model.state_dict().items())
    assert all(parameter.grad is None for parameter in p.model.parameters())


@pytest.mark.parametrize(("n", "rows"), [(1, LEAST_ROWS), (LEAST_ROWS, LEAST_ROWS), (20, 20)])
def test_every_model_call_has_at_least_the_fixed_number_of_rows(problem, n, rows):
    p = problem("linear", n=n)
    watched = Watched(p.model)
    search = Search(watched, p.x, p.y, Threat("linf", 0.1))
    assert torch.equal(search.test(p.x), p.model(p.x))
    losses, grad = search.evaluate(p.x, ce)
    assert watched.forwards == [rows, rows]
    assert losses.shape == (n,)
    assert grad.shape == p.x.shape


def test_padding_changes_neither_losses_nor_gradients(problem):
    p = problem("linear", n=20)
    losses, grad = Search(p.model, p.x, p.y, Threat("linf", 0.1)).evaluate(p.x, ce)
    few, few_grad = Search(p.model, p.x[:3], p.y[:3], Threat("linf", 0.1)).evaluate(p.x[:3], ce)
    assert torch.equal(losses[:3], few)
    assert torch.equal(grad[:3], few_grad)


def test_counts_are_what_a_counting_wrapper_sees_while_all_stand(problem):
    p = problem("linear", n=20)
    watched = Watched(p.model)
    found = pgd(watched, p.x, p.y, Threat("linf", 1e-6), p.draws(), steps=7, restarts=2)
    assert not found.fooled.any()
    assert found.forwards.tolist() == [16] * 20
    assert found.backwards.tolist() == [14] * 20
    assert (sum(watched.forwards), sum(watched.backwards)) == (16 * 20, 14 * 20)


def test_a_fallen_sample_gets_no_later_counted_pass_and_leaves_the_batch(problem):
    p = problem("linear", n=64)
    eps = float(p.distances("linf").quantile(0.7))
    watched = Watched(p.model)
    found = pgd(watched, p.x, p.y, Threat("linf", eps), p.draws(), steps=40, restarts=2)
    fallen, stands = found.fooled, ~found.fooled
    assert 0 < int(stands.sum()) < len(p.x)
    restart = (found.step >= 41).long()
    assert torch.equal(found.forwards[fallen], found.step[fallen] + 1)
    assert torch.equal(found.backwards[fallen], (found.step - restart)[fallen])
    assert set(found.forwards[stands].tolist()) == {82}
    assert set(found.backwards[stands].tolist()) == {80}
    assert watched.forwards == sorted(watched.forwards, reverse=True)
    assert watched.forwards[-1] <= max(LEAST_ROWS, 8 / 7 * int(stands.sum()) + 1)
    assert all(now == then or now <= 7 / 8 * then for then, now in itertools.pairwise(watched.forwards))


def test_no_pass_is_made_once_all_have_fallen(problem):
    p = problem("linear", n=20)
    watched = Watched(p.model)
    found = pgd(watched, p.x, p.y, Threat("linf", 1.0), p.draws(), steps=50, restarts=5)
    assert found.fooled.all()
    assert len(watched.forwards) == int(found.step.max()) + 1
    assert len(watched.backwards) == int(found.step.max())


def test_repacking_waits_for_an_eighth_and_cuts_the_attacks_own_state_along(problem):
    p = problem("linear", n=32)
    threat = Threat("linf", 1.0)
    search = Search(p.model, p.x, p.y, threat)
    wrong = p.x[(p.y[:, None] != p.y).long().argmax(1)]  # for each sample an image of another class
    number = torch.arange(32)
    search.test(torch.where((number < 3).view(-1, 1, 1, 1), wrong, p.x))
    assert (search.alive, len(search.rows)) == (29, 32)
    assert search.pack(number) == (number,)
    search.test(torch.where((number < 4).view(-1, 1, 1, 1), wrong, p.x))
    (number,) = search.pack(number)
    assert number.tolist() == search.rows.tolist() == list(range(4, 32))
    assert torch.equal(search.x, p.x[4:])
    found = search.result()
    assert found.step.tolist() == [0, 0, 0, 1] + [-1] * 28
    assert found.forwards.tolist() == [1, 1, 1, 2] + [2] * 28
    assert torch.equal(found.x_adv[:4], wrong[:4])
    assert torch.equal(found.x_adv[4:], p.x[4:])


def test_a_point_outside_the_threat_fools_nobody(problem):
    p = problem("linear", n=16)
    wrong = p.x[(p.y[:, None] != p.y).long().argmax(1)]
    search = Search(p.model, p.x, p.y, Threat("linf", 0.01))
    search.test(wrong)
    assert search.alive == 16
    assert torch.equal(search.result().x_adv, p.x)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_non_finite_logits_never_count_as_adversarial(problem, bad):
    p = problem("affine", n=20)
    right = p.y == 0
    x, y = p.x[right], p.y[right]
    found = pgd(NanWhereWrong(p.model, bad), x, y, Threat("linf", 0.3), p.draws().take(right), steps=10, restarts=2)
    assert pgd(p.model, x, y, Threat("linf", 0.3), p.draws().take(right)).fooled.all()
    assert not found.fooled.any()
    assert found.nonfinite.all()
    assert torch.equal(found.x_adv, x)
    assert set(found.step.tolist()) == {-1}


def test_a_nan_gradient_moves_nothing_and_spoils_no_other_sample(problem):
    p = problem("linear", n=16)

    def root(logits, y):
        poisoned = torch.arange(len(y)) == 3
        return ce(logits, y) * torch.where(poisoned, float("nan"), 1.0)

    with pytest.warns(RuntimeWarning, match="NaN or infinite in places, which count as 0"):
        _, grad = Search(p.model, p.x, p.y, Threat("linf", 0.1)).evaluate(p.x, root)
    _, healthy = Search(p.model, p.x, p.y, Threat("linf", 0.1)).evaluate(p.x, ce)
    others = torch.arange(16) != 3
    assert torch.equal(grad[others], healthy[others])
    assert not grad[3].any()


def test_a_caller_without_gradients_gets_the_same(problem):
    p = problem("convolutional", n=20)
    found = pgd(p.model, p.x, p.y, Threat("l2", 0.2), p.draws())
    with torch.no_grad():
        again = pgd(p.model, p.x, p.y, Threat("l2", 0.2), p.draws())
    assert found.fooled.any()
    assert torch.equal(found.x_adv, again.x_adv)
    assert not found.x_adv.requires_grad


def test_an_empty_batch_comes_back_empty(problem):
    p = problem("linear", n=4)
    watched = Watched(p.model)
    found = pgd(watched, p.x[:0], p.y[:0], Threat("l2", 0.1), p.draws().take(torch.arange(0)), target="second")
    assert found.x_adv.shape == (0, 3, 6, 6)
    assert watched.forwards == []


def test_a_sample_that_is_its_own_target_is_left_alone(problem):
    p = problem("linear", n=20)
    search = Search(p.model, p.x, p.y, Threat("linf", 1.0))
    search.aim(torch.zeros_like(p.y))
    assert search.alive == int((p.y != 0).sum())


class Cut(nn.Module):
    """A model whose logits have no gradient."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    def forward(self, x):
        return self.model(x.detach())


def test_a_model_that_cuts_its_gradient_gives_zeros(problem):
    p = problem("linear", n=20)
    search = Search(Cut(p.model), p.x, p.y, Threat("linf", 0.1))
    with pytest.warns(RuntimeWarning, match="no gradient with respect to the images"):
        losses, grad = search.evaluate(p.x, ce)
    assert torch.equal(losses, ce(p.model(p.x), p.y))
    assert not grad.any()


def test_a_pass_that_is_not_judged_is_counted_and_breaks_nobody(problem):
    p = problem("linear", n=20)
    search = Search(p.model, p.x, p.y, Threat("linf", 1.0))
    wrong = p.x[(p.y[:, None] != p.y).long().argmax(1)]
    search.evaluate(wrong, ce, judged=False)
    assert search.alive == 20
    assert search.result().forwards.tolist() == search.result().backwards.tolist() == [1] * 20


def test_on_a_device_that_is_asked_seldom_the_same_samples_fall(problem, monkeypatch):
    p = problem("linear", n=40)
    threat = Threat("linf", float(p.distances("linf").median()))
    often = pgd(p.model, p.x, p.y, threat, p.draws(), steps=30, restarts=2)
    monkeypatch.setattr(Search, "__init__", patient(Search.__init__))
    seldom = pgd(p.model, p.x, p.y, threat, p.draws(), steps=30, restarts=2)
    for name in ("x_adv", "fooled", "step", "forwards", "backwards"):
        assert torch.equal(getattr(often, name), getattr(seldom, name)), name


def patient(init):
    """The constructor, and then the patience of a device that is not the CPU."""

    def changed(self, *args, **options):
        init(self, *args, **options)
        self._patience = 8

    return changed


def test_a_fooled_sample_may_stay_and_its_last_wrong_point_is_kept(problem):
    p = problem("linear", n=20)
    search = Search(p.model, p.x, p.y, Threat("linf", 1.0), stay=True)
    others = [p.x[((p.y[:, None] != p.y).long() * torch.rand(20, 20)).argmax(1)] for _ in range(2)]
    for wrong in others:
        search.test(wrong)
    found = search.result()
    assert search.alive == 20
    assert found.fooled.all()
    assert set(found.step.tolist()) == {0}
    assert torch.equal(found.x_adv, others[1])
    assert found.forwards.tolist() == [2] * 20


def test_the_true_model_is_asked_about_every_claim_of_a_stand_in(problem):
    p = problem("linear", n=20)
    stand_in = nn.Module()

    class Liar(nn.Module):
        def forward(self, x):
            return -p.model(x)

    stand_in = Liar()
    stand_in.exact = p.model
    search = Search(stand_in, p.x, p.y, Threat("linf", 1.0))
    search.test(p.x)
    assert search.alive == 20
    wrong = p.x[(p.y[:, None] != p.y).long().argmax(1)]
    search.test(wrong)
    assert search.result().fooled.all() == (-p.model(wrong)).argmax(1).ne(p.y).all()
