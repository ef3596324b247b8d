"""Input gradient distillation against cosines of known slopes, and what it must leave alone."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch
from batches import batch_of, random_linear, small_images, small_net
from torch import Tensor, nn
from torch.nn import functional as F

from robench.core.errors import InputError
from robench.core.types import Batch
from robench.objectives import penalised_loss
from robench.objectives.igd import igd
from robench.objectives.standard import ce_at_images


def batch_for(
    model: nn.Module, teacher: nn.Module | None, n: int = 5, *, moved: float = 0.0, mixed: Tensor | None = None, y: Tensor | None = None
) -> Batch:
    x, labels = small_images(n)
    x = x.to(next(model.parameters()).dtype)
    return batch_of(model, x, labels if y is None else y, x_adv=x + moved, teacher=teacher, mixed=mixed)


def plain_slopes(model: nn.Module, x: Tensor, scalar) -> Tensor:
    x = x.detach().requires_grad_()
    (slopes,) = torch.autograd.grad(scalar(copy.deepcopy(model).eval()(x)).sum(), x)
    return slopes.flatten(1)


def picked(y: Tensor):
    return lambda logits: logits.gather(1, y[:, None])


def test_of_linear_networks_it_is_one_minus_the_cosine_of_the_rows_of_the_labels():
    student, teacher = random_linear(0), random_linear(1)
    batch = batch_for(student, teacher)
    expected = 1 - F.cosine_similarity(student[1].weight[batch.y], teacher[1].weight[batch.y])
    torch.testing.assert_close(igd(student, batch), expected.mean(), rtol=1e-12, atol=0)


def test_of_the_loss_of_linear_networks_it_compares_the_rows_weighted_by_the_residuals():
    student, teacher = random_linear(0), random_linear(1)
    batch = batch_for(student, teacher)

    def slopes(model: nn.Sequential) -> Tensor:
        return (model(batch.x).softmax(1) - F.one_hot(batch.y, 4)) @ model[1].weight

    expected = 1 - F.cosine_similarity(slopes(student), slopes(teacher))
    torch.testing.assert_close(igd(student, batch, of="loss"), expected.mean(), rtol=1e-12, atol=0)


@pytest.mark.parametrize("of", ["logit", "loss"])
@pytest.mark.parametrize(("at", "place"), [("clean", "x"), ("base", "x_adv")])
def test_it_is_that_of_gradients_taken_plainly_at_the_place_asked_for(of, at, place):
    student, teacher = small_net(nn.BatchNorm2d(3)), small_net(nn.BatchNorm2d(3), seed=1)
    batch = batch_for(student, teacher, moved=0.2)
    scalar = picked(batch.y) if of == "logit" else lambda logits: F.cross_entropy(logits, batch.y, reduction="none")
    own, taught = (plain_slopes(model, getattr(batch, place), scalar) for model in (student, teacher))
    torch.testing.assert_close(igd(student, batch, of=of, at=at).detach(), (1 - F.cosine_similarity(own, taught)).mean())


def test_its_gradient_in_the_weights_is_a_central_difference():
    student, teacher = small_net(), small_net(seed=1)
    weights = list(student.parameters())
    grads = torch.autograd.grad(igd(student, batch_for(student, teacher)), weights, allow_unused=True, materialize_grads=True)
    directions = [torch.randn_like(weight) for weight in weights]
    h, values = 1e-5, []
    for sign in (1, -1):
        moved = copy.deepcopy(student)
        for weight, direction in zip(moved.parameters(), directions, strict=True):
            weight.data.add_(direction, alpha=sign * h)
        values.append(igd(moved, batch_for(moved, teacher)).item())
    slope = sum((grad * direction).sum() for grad, direction in zip(grads, directions, strict=True))
    torch.testing.assert_close(slope.item(), (values[0] - values[1]) / (2 * h), rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("of", ["logit", "loss"])
def test_a_student_that_is_its_teacher_has_nothing_to_learn(of):
    student = small_net(nn.BatchNorm2d(3))
    student(small_images()[0] * 3)  # running statistics of its own
    batch = batch_for(student, None)
    value = igd(student, replace(batch, teacher=copy.deepcopy(student).eval()), of=of)
    grads = torch.autograd.grad(value, list(student.parameters()), allow_unused=True, materialize_grads=True)
    assert abs(value.item()) < 1e-12
    assert max(grad.abs().max().item() for grad in grads) < 1e-12


def test_a_student_with_opposite_slopes_has_the_largest_value():
    student, teacher = random_linear(0), random_linear(0)
    teacher[1].weight.data.neg_()
    assert igd(student, batch_for(student, teacher)).item() == pytest.approx(2)


@pytest.mark.parametrize("factor", [1e-25, 1e-3, 1e3, 1e20])
def test_the_lengths_of_the_gradients_do_not_matter_even_in_float32(factor):
    student, teacher = small_net().float(), small_net(seed=1).float()
    expected = igd(student, batch_for(student, teacher)).item()
    for changed in (student, teacher):
        changed[-1].weight.data.mul_(factor)
        assert igd(student, batch_for(student, teacher)).item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("which", ["student", "teacher"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_gradient_of_zero_counts_as_cosine_zero_and_trains_without_nan(which, dtype):
    student, teacher = small_net().to(dtype), small_net(seed=1).to(dtype)
    (student if which == "student" else teacher)[-1].weight.data.zero_()
    value = igd(student, batch_for(student, teacher))
    assert value.item() == pytest.approx(1)
    for grad in torch.autograd.grad(value, list(student.parameters()), allow_unused=True, materialize_grads=True):
        assert grad.isfinite().all()


def test_a_gradient_that_is_not_finite_is_not_hidden():
    student, teacher = random_linear(0), random_linear(1)
    teacher[1].weight.data[0, 0] = torch.nan
    assert igd(student, batch_for(student, teacher)).isnan()


@pytest.mark.parametrize("training", [True, False])
def test_the_teacher_is_taken_in_evaluation_mode_and_left_as_it_was(training):
    student, teacher = small_net(), small_net(nn.BatchNorm2d(3), nn.Dropout(0.5), seed=1)
    teacher(small_images()[0] * 3)  # running statistics of their own
    expected = igd(student, batch_for(student, copy.deepcopy(teacher).eval())).item()
    teacher.train(training)[2].train()
    teacher[0].bias.requires_grad_(False)
    modes, flags = [m.training for m in teacher.modules()], [p.requires_grad for p in teacher.parameters()]
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    value = igd(student, batch_for(student, teacher))
    torch.autograd.backward(value, inputs=list(student.parameters()))
    assert value.item() == expected
    assert [m.training for m in teacher.modules()] == modes
    assert [p.requires_grad for p in teacher.parameters()] == flags
    assert all(parameter.grad is None for parameter in teacher.parameters())
    assert all(torch.equal(tensor, before[name]) for name, tensor in teacher.state_dict().items())


def test_no_gradient_reaches_the_teacher():
    student, teacher = random_linear(0), random_linear(1)
    grads = torch.autograd.grad(igd(student, batch_for(student, teacher)), [student[1].weight, teacher[1].weight], allow_unused=True)
    assert grads[0].abs().sum() > 0
    assert grads[1] is None


def test_dropout_and_batch_norm_of_the_student_are_in_evaluation_mode_and_stay_in_training():
    student, teacher = small_net(nn.BatchNorm2d(3), nn.Dropout(0.5)), small_net(seed=1)
    batch = batch_for(student, teacher)
    before = {name: value.clone() for name, value in student.state_dict().items()}
    first, second = igd(student, batch), igd(student, batch)
    assert first == second
    assert all(module.training for module in student.modules())
    assert all(torch.equal(tensor, before[name]) for name, tensor in student.state_dict().items())
    assert igd(student, batch_for(student.eval(), teacher)) == first


def test_it_is_a_mean_over_samples_that_stand_alone():
    student, teacher = small_net(), small_net(seed=1)
    x, y = small_images()
    own, taught = (plain_slopes(model, x, picked(y)) for model in (student, teacher))
    values = torch.stack([igd(student, batch_for(student, teacher, n)).detach() for n in (1, 3, 5)])
    torch.testing.assert_close(values, torch.stack([(1 - F.cosine_similarity(own, taught))[:n].mean() for n in (1, 3, 5)]))


def test_of_mixed_images_the_logit_is_that_of_the_larger_part_and_the_loss_that_of_both():
    student, teacher = small_net(), small_net(seed=1)
    mixed = F.one_hot(small_images()[1], 4) * 0.7 + F.one_hot(small_images()[1].flip(0), 4) * 0.3
    plain, both = batch_for(student, teacher), batch_for(student, teacher, mixed=mixed)
    assert igd(student, both) == igd(student, plain)
    own, taught = (plain_slopes(m, plain.x, lambda z: -(mixed * z.log_softmax(1)).sum(1)) for m in (student, teacher))
    torch.testing.assert_close(igd(student, both, of="loss").detach(), (1 - F.cosine_similarity(own, taught)).mean())


def test_a_few_steps_on_it_turn_the_slopes_towards_the_teacher_s():
    student, teacher = small_net(), small_net(seed=1)
    optimizer = torch.optim.SGD(student.parameters(), 0.1)
    before = igd(student, batch_for(student, teacher)).item()
    for _ in range(20):
        total, terms = penalised_loss(ce_at_images, {"igd": (1.0, igd)})(student, batch_for(student, teacher))
        optimizer.zero_grad()
        torch.autograd.backward(total, inputs=list(student.parameters()))
        optimizer.step()
    assert terms.keys() == {"ce", "igd"}
    assert igd(student, batch_for(student, teacher)).item() < 0.8 * before


def test_the_cosine_is_taken_in_float32_where_the_network_runs_in_bfloat16():
    student, teacher = small_net().float(), small_net(seed=1).float()
    expected = igd(student, batch_for(student, teacher)).item()
    with torch.autocast("cpu", torch.bfloat16):
        value = igd(student, batch_for(student, teacher))
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(expected, abs=0.02)


def test_without_a_teacher_it_says_what_to_pass():
    student = small_net()
    with pytest.raises(InputError, match="igd distils from a teacher: pass --teacher FILE"):
        igd(student, batch_for(student, None))


@pytest.mark.parametrize(("options", "says"), [({"of": "logits"}, "unknown scalar.*'logit'"), ({"at": "start"}, "unknown place")])
def test_wrong_options_are_refused(options, says):
    student = small_net()
    with pytest.raises(InputError, match=says):
        igd(student, batch_for(student, small_net(seed=1)), **options)
