"""Second derivatives of networks: fused attention is replaced, operators that have none are named."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from batches import unmade
from torch import Tensor, nn
from torch.nn import functional as F
from torchvision.models import VisionTransformer
from torchvision.ops import roi_align

import robench
from robench.core.errors import InputError
from robench.data import load_images
from robench.objectives import OBJECTIVES, REGULARIZERS, penalised_loss, regularizers_of
from robench.objectives.second_order import (
    attention_by_products,
    differentiates_twice,
    has_fused_attention,
    name_failing_operators,
    refuse_lost_derivatives,
)
from robench.training.epochs import fit
from robench.training.settings import plan_of, resolved_settings
from robench.training.steps import begin_training
from robench.training.types import Step

VIT = """
from torchvision.models import VisionTransformer

def net(num_classes=10):
    return VisionTransformer(image_size=32, patch_size=16, num_layers=1, num_heads=2, hidden_dim=8, mlp_dim=8, num_classes=num_classes)
"""


def vit() -> VisionTransformer:
    torch.manual_seed(0)
    model = VisionTransformer(image_size=8, patch_size=4, num_layers=2, num_heads=2, hidden_dim=16, mlp_dim=16, num_classes=5)
    nn.init.normal_(model.heads.head.weight)  # torchvision's is zero, and so would be every gradient
    return model


def batch_for(model: nn.Module):
    x = torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))
    batch = unmade(x, torch.arange(4))
    x_adv = x.clone().requires_grad_()
    return replace(batch, x_adv=x_adv, logits=model(x_adv), teacher=vit().eval().requires_grad_(False))


def loss_and_gradients(name: str, model: nn.Module) -> tuple[Tensor, list[Tensor | None]]:
    loss, _ = penalised_loss(OBJECTIVES["standard"]().loss, regularizers_of([name]))(model, batch_for(model))
    return loss, list(torch.autograd.grad(loss, list(model.parameters()), allow_unused=True))


@pytest.mark.parametrize("name", REGULARIZERS)
def test_the_regularisers_that_need_no_second_derivative_are_those_that_run_through_fused_attention(name):
    if not differentiates_twice([name]):
        loss_and_gradients(name, vit())
    else:
        with pytest.raises(RuntimeError, match="scaled_dot_product"):
            loss_and_gradients(name, vit())


def test_attention_by_products_gives_the_logits_of_the_fused_kernel():
    model, x = vit().eval(), torch.rand(3, 3, 8, 8)
    assert has_fused_attention(model, x)
    with attention_by_products():
        assert not has_fused_attention(model, x)
        torch.testing.assert_close(model(x), model.eval()(x))
        products = model(x)
    torch.testing.assert_close(products, model(x), rtol=1e-4, atol=1e-5)


def test_a_network_without_attention_has_no_fused_attention():
    assert not has_fused_attention(nn.Sequential(nn.Flatten(), nn.Linear(12, 2)), torch.rand(2, 3, 2, 2))


@pytest.mark.parametrize("objective", OBJECTIVES)
@pytest.mark.parametrize("name", REGULARIZERS)
def test_a_vision_transformer_makes_a_step_with_every_regulariser_on_every_objective(objective, name):
    images = load_images("shapes", "train", n=8)
    settings, _ = resolved_settings("small", {"objective": objective, "reg": (name,), "epochs": 1, "batch_size": 8, "probe_n": 4})
    torch.manual_seed(0)
    model, master = (
        VisionTransformer(image_size=32, patch_size=16, num_layers=1, num_heads=2, hidden_dim=8, mlp_dim=8, num_classes=len(images.classes))
        for _ in range(2)
    )
    plan = plan_of(settings, 0, master.eval().requires_grad_(False))
    step = next(iter(fit(begin_training(model, plan), plan, images, images)))
    assert isinstance(step, Step)
    assert all(torch.isfinite(torch.tensor(term)) for term in step.terms.values())


def test_a_training_says_that_attention_runs_as_matrix_products(tmp_path):
    said, code = [], tmp_path / "vit.py"
    code.write_text(VIT)

    def watch(events, epochs):
        for event in events:
            said.append(getattr(event, "sentence", ""))
            yield event

    words = {
        "n_train": 64,
        "epochs": 1,
        "batch_size": 16,
        "held_out": 16,
        "eval_n": 4,
        "suite": (),
        "out": tmp_path / "vit.pt",
        "watch": watch,
    }
    for reg, count in ((("sagr",), 1), (("l2",), 0)):
        said.clear()
        robench.train(
            "shapes", arch=f"{code}:net,num_classes=10", activation="relu", reg=reg, **{**words, "out": tmp_path / f"{reg[0]}.pt"}
        )
        assert sum("matrix products" in sentence for sentence in said) == count


class Hard(nn.Module):
    """A network with a hard sigmoid in it, whose backward pass has no derivative."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(12, 12), nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(F.hardsigmoid(self.first(x.flatten(1))))


class Regions(nn.Module):
    """A network with torchvision's roi_align in it, whose backward pass has no derivative."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 3, 1), nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        boxes = [torch.tensor([[0.0, 0.0, 2.0, 2.0]])] * len(x)
        return self.last(roi_align(self.first(x), boxes, 2).flatten(1).square())


class Once(torch.autograd.Function):
    """x squared, with a backward pass that may run once."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        return x.square()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, grad: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return 2 * x * grad


class Custom(nn.Module):
    """A network with a function of the user's own in it."""

    def __init__(self) -> None:
        super().__init__()
        self.last = nn.Linear(12, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(Once.apply(x).flatten(1))


@pytest.mark.parametrize(
    ("model", "operator"),
    [(Hard(), "hardsigmoid"), (Regions(), "roi_align"), (Custom(), "Once")],
    ids=["torch's", "torchvision's", "the user's"],
)
def test_another_operator_without_a_second_derivative_is_named(model, operator):
    x = torch.rand(4, 3, 2, 2, requires_grad=True)
    batch = replace(unmade(x.detach(), torch.arange(4)), x_adv=x, logits=model(x))
    loss_of = penalised_loss(OBJECTIVES["standard"]().loss, regularizers_of(["input-l2"]))

    def step() -> None:
        with name_failing_operators(batch.logits):
            loss, _ = loss_of(model, batch)
            refuse_lost_derivatives(loss, batch.logits)
            torch.autograd.grad(loss, list(model.parameters()))

    with pytest.raises(InputError, match=f"{operator} in it has no second derivative"):
        step()


def test_other_errors_of_a_network_stay_what_they_are():
    with pytest.raises(RuntimeError, match=r"^something else$"), name_failing_operators(torch.rand(2, 2, requires_grad=True) * 2):
        raise RuntimeError("something else")


def test_a_training_refuses_a_function_that_would_cut_the_penalty_from_the_weights():
    images = load_images("shapes", "train", n=8)
    settings, _ = resolved_settings("small", {"reg": ("input-l2",), "epochs": 1, "batch_size": 8})
    plan = plan_of(settings, 0, None)
    model = nn.Sequential(nn.AvgPool2d(16), Custom())
    model[1].last = nn.Linear(12, len(images.classes))
    with pytest.raises(InputError, match="Once in it has no second derivative"):
        next(iter(fit(begin_training(model, plan), plan, images, images)))
