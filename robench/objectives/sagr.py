"""SAGR, Saliency-Aware Gradient Regularization (Li et al. 2023, IEEE TIFS 18, 10.1109/TIFS.2023.3289000): our reconstruction.

Only the abstract is public. It says that the Jacobian is regularised, that a biased weight distribution on positive
gradient structures the gradients of the classes inside it, and that those of false classes are depressed more strongly
than that of the true class. Every formula here is inferred from that; none is checked against the paper's text, code
or numbers. With g_c = d out_c / dx, y the label and K classes:

    form=jacobian   R = 1/2 mean_B sum_c w_c N(phi(g_c)),   w_y = a, w_c = b elsewhere, a + (K-1) b = K, rho = a/b
    form=loss       R = mean_B N(phi(J^T [w * (p - onehot(y))])),   p = softmax(logits), which keeps its graph

phi is the identity or the positive part, N a norm. rho = 1 on raw logits is Jacobian regularisation (Hoffman et al.
2019, 1908.02729), on centred ones 1/(4K) sum_lm ||g_l - g_m||^2; the loss form at rho = 1 is double backpropagation.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from robench.core.checks import number_option, whole_option
from robench.core.draws import Draws
from robench.core.errors import InputError
from robench.core.recipes import lookup
from robench.core.types import Batch
from robench.objectives.facts import Facts
from robench.objectives.gradients import Field, class_gradient, class_gradients, field_of, squared_vjp_norm, squared_vjp_norm_fd, vjp

RHO = 0.1  # if none is given


class SagrTask(NamedTuple):
    """What an estimator needs.

    Attributes:
        field: of the K outputs.
        w: class weights, (B, K).
        y: labels, (B,).
        measure: N(phi(.)), from gradients (B, D) to (B,).
        draws: random numbers of the samples.
        n: number of random probes.
        h: length of the step of a finite difference in pixel units.
    """

    field: Field
    w: Tensor
    y: Tensor
    measure: Callable[[Tensor], Tensor]
    draws: Draws
    n: int
    h: float


def sagr_notes(
    classes: int, *, form: str = "jacobian", rho: float | None = None, sign: str = "all", output: str = "centred", **_: Any
) -> list[str]:
    """What a training with these options is to say of the method.

    Args:
        classes: number of logits of the model.
        form: a key of FORMS.
        rho: as given, or None.
        sign: a key of SIGNS.
        output: a key of OUTPUTS.
        **_: the other options, which are not read.

    Raises:
        InputError: for a rho that changes nothing.
    """
    refuse_idle_rho(classes, rho, form, sign, output)
    notes = ["sagr is our reconstruction of SAGR (Li et al. 2023), of which only the abstract is public: docs/sagr.md"]
    if rho_is_idle(classes, form, sign, output):
        others = "output=logprobs tells" if form == "loss" else "sign=positive and output=logprobs tell"
        notes.append(
            f"with two classes, {idle_rho_words(form, sign, output)} sagr weighs both classes alike: the penalty is the same for every rho "
            f"(output=logits is not taken in its place, as training can escape it; {others} the classes apart)"
        )
    return notes


@Facts(weight=0.1, warmup=0.25, lengths=("h",), gradient_free_options={"estimator": "fd-input"}, notes=sagr_notes)
def sagr(
    model: nn.Module,
    batch: Batch,
    *,
    form: str = "jacobian",
    rho: float | None = None,
    sign: str = "all",
    norm: str = "l2sq",
    output: str = "centred",
    estimator: str = "auto",
    projections: int = 1,
    h: float | None = None,
    at: str = "base",
) -> Tensor:
    """SAGR, our reconstruction (Li et al. 2023): a penalty on the Jacobian, weighted by class.

    Args:
        model: the network in training, which gives logits (B, K).
        batch: the images of one step, with the x_adv and the logits of the base loss.
        form: "jacobian" for the gradients of all classes, weighted; "loss" for the gradient of a re-weighted loss.
        rho: weight of the true class over that of a false one, in [0, inf], 0.1 if not given; inf leaves the true class alone.
            Refused where the penalty is the same for every rho: for two classes with sign=all and output=centred or probs, and with
            form=loss and output=centred whatever the sign.
        sign: phi: "all" is the identity, "positive" the positive part.
        norm: N: "l2sq", "l2" or "l1" (which is dual to a linf threat).
        output: what is differentiated: "centred", "logits", "logprobs" or "probs".
        estimator: "rademacher", "true-rademacher", "fd", "fd-input", "exact" or "sampled" (form=loss: "exact" or "fd"); "auto" is the
            cheapest one without bias.
        projections: random probes to average over (sampled: false classes to draw), at least 1.
        h: length of the step of fd and fd-input in pixel units, 0.01 if not given.
        at: "base" for the images of the base loss, "clean" for the clean images.

    Returns:
        The scalar R of the module's head, at least 0.

    Raises:
        InputError: for options that cannot be, that change nothing, that training would escape or that bias the estimate.
    """
    estimators = lookup(form, FORMS, "form of sagr")
    phi, size = lookup(sign, SIGNS, "sign of sagr"), lookup(norm, GRADIENT_NORMS, "norm of sagr")
    outputs = lookup(output, OUTPUTS, "output of sagr")
    estimator = automatic_estimator(form, sign, norm) if estimator == "auto" else estimator
    estimate = lookup(estimator, estimators, f"estimator of sagr with form={form}")
    refuse_escapes(form, sign, output)
    refuse_idle_estimator_options(form, estimator, projections, h)
    refuse_bias(estimator, sign, norm)
    field = field_of(model, batch, at, outputs)
    refuse_idle_rho(field.out.shape[1], rho, form, sign, output)
    w = class_weights(batch.y, field.out.shape[1], RHO if rho is None else rho).to(field.out)
    draws, n = batch.draws.child("sagr"), whole_option("projections", projections)
    task = SagrTask(
        field, w, batch.y, lambda grads: size(phi(grads)), draws, n, 1e-2 if h is None else number_option("the step h", h, least=1e-6)
    )
    return estimate(task).mean() * (0.5 if form == "jacobian" else 1.0)


def automatic_estimator(form: str, sign: str, norm: str) -> str:
    """The estimator that estimator=auto stands for: the cheapest one without bias.

    Args:
        form: a key of FORMS.
        sign: a key of SIGNS.
        norm: a key of GRADIENT_NORMS.

    Example:
        >>> automatic_estimator("jacobian", "all", "l2sq"), automatic_estimator("jacobian", "positive", "l2sq")
        ('rademacher', 'sampled')
    """
    if form == "loss":
        return "exact"
    return "rademacher" if (sign, norm) == ("all", "l2sq") else "sampled"


def refuse_escapes(form: str, sign: str, output: str) -> None:
    """Refuses a penalty that training would escape, or that has no meaning.

    Args:
        form: a key of FORMS.
        sign: a key of SIGNS.
        output: a key of OUTPUTS.

    Raises:
        InputError: with what to choose instead.
    """
    if sign == "positive" and output == "logits":
        raise InputError(
            "sign=positive on raw logits is escaped by adding one function to all of them, which changes no prediction: "
            "choose output=centred, logprobs or probs"
        )
    if form == "loss" and output == "probs":
        raise InputError("form=loss weighs the derivative of the loss by the logits: choose output=centred, logits or logprobs")


def refuse_idle_estimator_options(form: str, estimator: str, projections: float, h: float | None) -> None:
    """Refuses an option that the estimator would not read.

    Args:
        form: a key of FORMS.
        estimator: its estimator.
        projections: as given; 1 is the default.
        h: as given, or None.

    Raises:
        InputError: naming the option.
    """
    if projections != 1 and (form == "loss" or estimator == "exact"):
        raise InputError(f"sagr with form={form} and estimator={estimator} draws no projections: leave that option out")
    if h is not None and not estimator.startswith("fd"):
        raise InputError(f"h is the step of a finite difference, and estimator={estimator} takes none: leave it out or choose estimator=fd")


def rho_is_idle(classes: int, form: str, sign: str, output: str) -> bool:
    """Whether R is the same for every rho: the two outputs add up to a constant, so their gradients g and -g are equally long.

    form=jacobian weighs N(phi(g)) and N(phi(-g)), which differ for sign=positive. form=loss weighs the vectors: J^T [w * (p - onehot)] is
    -(a + b) p_o g_y, with o the other class and a + b = 2, whatever is done with it afterwards.

    Args:
        classes: number of outputs.
        form: a key of FORMS.
        sign: a key of SIGNS.
        output: a key of OUTPUTS.
    """
    return classes == 2 and (output == "centred" if form == "loss" else sign == "all" and output in ("centred", "probs"))


def refuse_idle_rho(classes: int, rho: float | None, form: str, sign: str, output: str) -> None:
    """Refuses a rho that changes nothing.

    Args:
        classes: number of outputs.
        rho: as given, or None.
        form: a key of FORMS.
        sign: a key of SIGNS.
        output: a key of OUTPUTS.

    Raises:
        InputError: with what to choose instead.
    """
    if rho is not None and rho_is_idle(classes, form, sign, output):
        others = "output=logprobs" if form == "loss" else "sign=positive or output=logprobs"
        raise InputError(
            f"with two classes, {idle_rho_words(form, sign, output)} both classes' gradients are equally long, and the penalty is the "
            f"same for every rho: leave rho out, or choose {others}"
        )


def idle_rho_words(form: str, sign: str, output: str) -> str:
    """The options that make rho idle, as the user writes them.

    Args:
        form: a key of FORMS.
        sign: a key of SIGNS.
        output: a key of OUTPUTS.
    """
    return f"{'form=loss' if form == 'loss' else f'sign={sign}'} and output={output}"


def refuse_bias(estimator: str, sign: str, norm: str) -> None:
    """Refuses an estimator whose random mixture of classes does not average to the sum over classes.

    Args:
        estimator: as given.
        sign: a key of SIGNS.
        norm: a key of GRADIENT_NORMS.

    Raises:
        InputError: with what to choose instead.
    """
    if (sign, norm) != ("all", "l2sq") and estimator not in ("exact", "sampled"):
        raise InputError(f"estimator={estimator} is biased with sign={sign} and norm={norm}: choose exact, or sampled (form=jacobian only)")


def class_weights(y: Tensor, K: int, rho: float) -> Tensor:
    """Class weights, (B, K) in float64: a for the label, b for the others, a = rho b, a + (K-1) b = K; rho = inf gives (K, 0).

    Args:
        y: labels (B,).
        K: number of classes, at least 2.
        rho: in [0, inf].

    Raises:
        InputError: for a rho or a K out of its range.

    Example:
        >>> class_weights(torch.tensor([1]), 3, 1.0).tolist()
        [[1.0, 1.0, 1.0]]
    """
    if rho != math.inf:
        number_option("rho (unless it is inf)", rho)
    if K < 2:
        raise InputError("sagr weighs the true class against false ones: it needs a model with at least 2 classes")
    b = K / (rho + K - 1)
    a = K - (K - 1) * b
    return torch.full((len(y), K), b, dtype=torch.float64, device=y.device).scatter(1, y[:, None], max(a, 0.0))


def centred_logits(logits: Tensor) -> Tensor:
    """Logits minus their mean, (B, K): a function added to all of them does not change it.

    Args:
        logits: (B, K).
    """
    return logits - logits.mean(1, keepdim=True)


def mean_over_draws(task: SagrTask, term: Callable[[int], Tensor]) -> Tensor:
    """The mean over the n probes, (B,).

    Args:
        task: gives n.
        term: term(step) -> (B,), the value of one probe.
    """
    return torch.stack([term(step) for step in range(task.n)]).mean(0)


def weighted_signs(task: SagrTask, step: int) -> Tensor:
    """sqrt(w) times random signs, (B, K): E ||J^T v||^2 = sum_c w_c ||g_c||^2.

    Args:
        task: gives w and the random numbers.
        step: number of the probe, from 0.
    """
    return task.w.sqrt() * task.draws.signs(task.w.shape[1:], step).to(task.w)


def sagr_rademacher(task: SagrTask) -> Tensor:
    """||J^T v||^2 with v = sqrt(w) * signs (Hutchinson 1989), by double backward; unbiased, (B,).

    Args:
        task: field, weights, labels and random numbers.
    """
    return mean_over_draws(task, lambda step: squared_vjp_norm(task.field, weighted_signs(task, step)))


def sagr_true_rademacher(task: SagrTask) -> Tensor:
    """The true class exactly and one probe on the rest, by double backward; unbiased, (B,).

    Args:
        task: field, weights, labels and random numbers.
    """
    own = F.one_hot(task.y, task.w.shape[1])
    return squared_vjp_norm(task.field, task.w.sqrt() * own) + mean_over_draws(
        task, lambda step: squared_vjp_norm(task.field, weighted_signs(task, step) * (1 - own))
    )


def sagr_fd(task: SagrTask) -> Tensor:
    """As rademacher, by a finite difference along J^T v; bias O(h), no double backward, (B,).

    Args:
        task: field, weights, labels and random numbers.
    """
    return mean_over_draws(task, lambda step: squared_vjp_norm_fd(task.field, weighted_signs(task, step), task.h))


def sagr_fd_input(task: SagrTask) -> Tensor:
    """sum_c w_c (g_c . u)^2 with random signs u on the input, by finite differences: E (g . u)^2 = ||g||^2; bias O(h), (B,).

    Args:
        task: field, weights, labels and random numbers.
    """
    x, out, _ = task.field
    D = x[0].numel()

    def term(step: int) -> Tensor:
        u = task.draws.signs(x.shape[1:], step).to(x) / math.sqrt(D)
        return D * (task.w * ((task.field.at(x.detach() + task.h * u) - out) / task.h).square()).sum(1)

    return mean_over_draws(task, term)


def sagr_exact(task: SagrTask) -> Tensor:
    """sum_c w_c N(phi(g_c)), class by class, (B,).

    Args:
        task: field, weights, labels and random numbers.
    """
    return torch.stack([w * task.measure(grad) for w, grad in zip(task.w.T, class_gradients(task.field), strict=True)]).sum(0)


def sagr_sampled(task: SagrTask) -> Tensor:
    """The true class exactly and n false ones without replacement, times (K-1)/n; unbiased for every phi and N, (B,).

    Args:
        task: field, weights, labels and random numbers.

    Raises:
        InputError: where n exceeds the number of false classes.
    """
    K = task.w.shape[1]
    if task.n > K - 1:
        raise InputError(f"estimator=sampled cannot draw {task.n} of {K - 1} false classes: lower projections or choose estimator=exact")
    ranks = task.draws.uniform((K,)).scatter(1, task.y[:, None], 2.0)
    false = ranks.topk(task.n, dim=1, largest=False).indices
    share = (K - 1) / task.n
    return class_term(task, task.y) + share * torch.stack([class_term(task, labels) for labels in false.T]).sum(0)


def class_term(task: SagrTask, labels: Tensor) -> Tensor:
    """w_c N(phi(g_c)) of one class, (B,).

    Args:
        task: gives field, weights and N(phi(.)).
        labels: (B,) int64, the class c of each sample.
    """
    return task.w.gather(1, labels[:, None]).squeeze(1) * task.measure(class_gradient(task.field, labels))


def weighted_residual(task: SagrTask) -> Tensor:
    """w * (p - onehot(y)), (B, K): at w = 1 the derivative of the cross-entropy by the logits; p keeps its graph.

    Args:
        task: field, weights, labels and random numbers.
    """
    return task.w * (task.field.out.softmax(1) - F.one_hot(task.y, task.w.shape[1]))


def sagr_loss_exact(task: SagrTask) -> Tensor:
    """N(phi(J^T residual)) by double backward, (B,).

    Args:
        task: field, weights, labels and random numbers.
    """
    return task.measure(vjp(task.field, weighted_residual(task)))


def sagr_loss_fd(task: SagrTask) -> Tensor:
    """||J^T residual||^2 by a finite difference; bias O(h), (B,).

    Args:
        task: field, weights, labels and random numbers.
    """
    return squared_vjp_norm_fd(task.field, weighted_residual(task), task.h)


FORMS: Mapping[str, Mapping[str, Callable[[SagrTask], Tensor]]] = {
    "jacobian": {
        "rademacher": sagr_rademacher,
        "true-rademacher": sagr_true_rademacher,
        "fd": sagr_fd,
        "fd-input": sagr_fd_input,
        "exact": sagr_exact,
        "sampled": sagr_sampled,
    },
    "loss": {"exact": sagr_loss_exact, "fd": sagr_loss_fd},
}
OUTPUTS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "centred": centred_logits,
    "logits": lambda logits: logits,
    "logprobs": lambda logits: logits.log_softmax(1),
    "probs": lambda logits: logits.softmax(1),
}
SIGNS: Mapping[str, Callable[[Tensor], Tensor]] = {"all": lambda grads: grads, "positive": F.relu}
GRADIENT_NORMS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "l2sq": lambda grads: grads.square().sum(1),
    "l2": lambda grads: torch.linalg.vector_norm(grads, dim=1),
    "l1": lambda grads: grads.abs().sum(1),
}
