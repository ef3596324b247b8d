"""Gradients of a network's outputs with respect to its input that can be trained through; shared by the regularisers.

J is the (K, D) Jacobian of the outputs of one sample, D = C*H*W. All sums over samples are exact only for networks that
treat each sample alone; `points_and_logits` sees to that.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.dropout import _DropoutNd

from robench.core.moved import names_of_before
from robench.core.recipes import lookup
from robench.core.threat import per_sample
from robench.core.types import Batch

PLACES = {"base": "x_adv", "clean": "x"}


class Field(NamedTuple):
    """A network's outputs around B points.

    Attributes:
        x: the points, (B, C, H, W), which require grad.
        out: the outputs there, (B, K), with their graph.
        at: at(points) -> the outputs at other points (B, C, H, W), (B, K), with a graph to the parameters.
    """

    x: Tensor
    out: Tensor
    at: Callable[[Tensor], Tensor]


def field_of(model: nn.Module, batch: Batch, at: str, outputs: Callable[[Tensor], Tensor]) -> Field:
    """The field of outputs of the logits around the images of a batch.

    Args:
        model: the network in training.
        batch: the images of one step.
        at: "base" or "clean", see `points_and_logits`.
        outputs: outputs(logits) -> what is differentiated, (B, K) each; the identity for the logits themselves.
    """
    x, logits = points_and_logits(model, batch, at)
    return Field(x, outputs(logits), lambda points: outputs(evaluation_logits(model, points)))


def points_and_logits(model: nn.Module, batch: Batch, at: str = "base") -> tuple[Tensor, Tensor]:
    """The points at which a gradient is regularised, and the logits there, with the graph between them.

    The base loss's own forward pass is used if it went through the same points in full precision and no module in training mode mixes
    samples or adds noise (BatchNorm, Dropout, ...); otherwise a second pass is made in evaluation mode and without autocast, which leaves
    running statistics as they are.

    Args:
        model: the network in training.
        batch: its x_adv requires grad, and its logits have their graph.
        at: "base" for the images of the base loss, "clean" for the clean images.

    Returns:
        x (B, C, H, W), which requires grad, and the logits (B, K).

    Raises:
        InputError: for another word than the two.
    """
    place = lookup(at, PLACES, "place for a gradient (option at)")
    x: Tensor = getattr(batch, place)
    if not mixes_samples(model) and not torch.is_autocast_enabled(x.device.type) and (place == "x_adv" or torch.equal(x, batch.x_adv)):
        return batch.x_adv, batch.logits
    x = x.detach().requires_grad_()
    return x, evaluation_logits(model, x)


def mixes_samples(model: nn.Module) -> bool:
    """Whether a module in training mode lets samples depend on each other or on chance, or would change in a second pass.

    Args:
        model: all of its modules are looked at.
    """
    return any(module.training and (isinstance(module, (_NormBase, nn.RReLU)) or applies_dropout(module)) for module in model.modules())


def applies_dropout(module: nn.Module) -> bool:
    """Whether a module is a dropout of some kind with a chance above 0 (stochastic depth is known by its name).

    Args:
        module: is looked at without its children.
    """
    if isinstance(module, nn.MultiheadAttention):
        return bool(module.dropout > 0)
    if isinstance(module, _DropoutNd) or type(module).__name__ in ("StochasticDepth", "DropPath"):
        return float(getattr(module, "p", None) or getattr(module, "drop_prob", None) or 0) > 0
    return False


def evaluation_logits(model: nn.Module, x: Tensor) -> Tensor:
    """The logits in evaluation mode and without autocast, (B, K), with a graph to x and to the parameters.

    Args:
        model: each of its modules is in its own mode again afterwards.
        x: (B, C, H, W).
    """
    with evaluation_mode(model), torch.autocast(x.device.type, enabled=False):
        return model(x)  # type: ignore[no-any-return]


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Evaluation mode for a while; afterwards each module is in the mode in which it was.

    Args:
        model: is changed in place.
    """
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


def unrecorded_logits(model: nn.Module, x: Tensor) -> Tensor:
    """The logits in the model's mode, (B, K); what the pass writes into buffers, such as running statistics, is forgotten.

    Args:
        model: stays as it is.
        x: (B, C, H, W).
    """
    copies = {name: buffer.clone() for name, buffer in model.named_buffers()}
    return functional_call(model, copies, (x,))  # type: ignore[no-any-return]


def at_least_float32(values: Tensor) -> Tensor:
    """The values in float32 at least: autocast may have left them in bfloat16.

    Args:
        values: floats of any shape.
    """
    return values.to(torch.promote_types(values.dtype, torch.float32))


def unit_vectors(vectors: Tensor) -> Tensor:
    """Each sample's vector at Euclidean length 1; 0 stays 0.

    It is scaled by its largest entry first: the squares of a sure prediction's gradient are 0 in float32.

    Args:
        vectors: (B, ...), float.

    Returns:
        The vectors in the same shape.

    Example:
        >>> unit_vectors(torch.tensor([[3.0, 4.0], [0.0, 0.0]])).tolist()
        [[0.6000000238418579, 0.800000011920929], [0.0, 0.0]]
    """
    tiny = torch.finfo(vectors.dtype).tiny
    scaled = vectors / per_sample(vectors.detach().flatten(1).abs().amax(1).clamp_min(tiny), vectors)
    return scaled / per_sample(torch.linalg.vector_norm(scaled.flatten(1), dim=1).clamp_min(tiny), vectors)


def vjp(field: Field, v: Tensor) -> Tensor:
    """J^T v per sample, (B, D), with the graph of J and, where it has one, of v.

    Args:
        field: of the K outputs whose Jacobian is J.
        v: (B, K).
    """
    (grad,) = torch.autograd.grad(field.out, field.x, v.to(field.out), create_graph=True, materialize_grads=True)
    return grad.flatten(1)


def squared_vjp_norm(field: Field, v: Tensor) -> Tensor:
    """||J^T v||^2 per sample, (B,), by double backward.

    Args:
        field: of the K outputs whose Jacobian is J.
        v: (B, K).
    """
    return vjp(field, v).square().sum(1)


def squared_vjp_norm_fd(field: Field, v: Tensor, h: float) -> Tensor:
    """||J^T v||^2 per sample, (B,), up to O(h), by a forward difference along J^T v.

    With the direction u = J^T v / ||J^T v|| held fixed, (v^T J u)^2 has the same value and, since u maximises it, the
    same gradient in the parameters: no double backward is needed (after Finlay & Oberman 2019, 1905.11468).

    Args:
        field: of the K outputs whose Jacobian is J.
        v: (B, K).
        h: Euclidean length of the difference in pixel units, above 0.
    """
    (grad,) = torch.autograd.grad(field.out, field.x, v.detach().to(field.out), retain_graph=True, materialize_grads=True)
    end_outputs = field.at(field.x.detach() + h * unit_vectors(grad))
    return ((v.to(field.out) * (end_outputs - field.out)).sum(1) / h).square()


def class_gradient(field: Field, labels: Tensor) -> Tensor:
    """g_c per sample, (B, D): the gradient of one output, with its graph.

    Args:
        field: of the K outputs.
        labels: (B,) int64, the output c of each sample.
    """
    return vjp(field, nn.functional.one_hot(labels, field.out.shape[1]))


def class_gradients(field: Field) -> Iterator[Tensor]:
    """g_c of every sample, (B, D), one class c after the other.

    Args:
        field: of the K outputs.
    """
    return (class_gradient(field, torch.full_like(field.out[:, 0], c, dtype=torch.int64)) for c in range(field.out.shape[1]))


__getattr__ = names_of_before(
    __name__, {"differentiable": "points_and_logits", "square": "squared_vjp_norm", "square_fd": "squared_vjp_norm_fd"}
)
