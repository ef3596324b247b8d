"""The one helper of all native attacks: the active set, padded model calls, pass counting and the record of what was found."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from robench.threat import Threat
from robench.types import Found

LEAST_ROWS = 16  # a smaller batch is padded: logits differ in the last bits between batches of 1, 7 and 50
REPACK = 8  # the working rows are packed anew once an eighth of them has fallen: each new batch size costs set-up time


@contextmanager
def frozen(model: nn.Module) -> Iterator[None]:
    """Puts the model into eval mode with frozen parameters; each module's mode and each parameter's flag come back at the end."""
    modes = [(module, module.training) for module in model.modules()]
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        model.eval().requires_grad_(False)
        yield
    finally:
        for module, mode in modes:
            module.training = mode
        for parameter, flag in flags:
            parameter.requires_grad_(flag)


class Search:
    """What an attack still works on, and what it has found so far.

    Of the B samples given, `rows` (R,) says which are the working rows; `x`, `y` and `target` are cut to them. A fooled
    sample stands no more, and leaves the working rows at the next repack; until then it is a passenger of the model
    calls, neither recorded nor counted. An attack takes its turns from `turns`, keeps its own per-sample tensors in step
    with `pack`, and takes random numbers from `draws.take(search.rows)`.

    The goal is argmax != y, or argmax == target once `aim` has set targets. Only a point inside the threat with finite
    logits reaches it. A targeted search also keeps the last wrong point of a sample that has not reached its target.
    """

    def __init__(self, model: nn.Module, x: Tensor, y: Tensor, threat: Threat) -> None:
        self.model, self.threat, self.x, self.y = model, threat, x, y
        self.target: Tensor | None = None
        self.rows = torch.arange(len(x), device=x.device)
        self.standing = torch.ones(len(x), dtype=torch.bool, device=x.device)  # of the working rows
        self.alive = len(x)  # how many stand, known to the host
        self.tested = 0  # how many points of each sample were tested so far; the next one is this `step`
        counts = torch.zeros_like(self.rows)
        none = torch.zeros_like(self.standing)
        self._found = Found(x.clone(), none, counts - 1, counts, counts.clone(), none.clone())

    def aim(self, target: Tensor) -> None:
        """Sets the class (B,) each sample is to get; one that is its own label cannot be attacked and does not stand."""
        self.target = target[self.rows]
        self.standing = self.standing & (self.target != self.y)
        self.alive = int(self.standing.sum())

    def turns(self, count: int) -> Iterator[int]:
        """0, 1, ... up to `count` turns, as long as a sample stands."""
        for turn in range(count):
            if not self.alive:
                return
            yield turn

    def logits(self, x_adv: Tensor) -> Tensor:
        """The logits at x_adv, one point per working row, (R, K): one counted forward pass, no verdict."""
        missing = LEAST_ROWS - len(x_adv)
        if missing > 0:
            x_adv = torch.cat((x_adv, x_adv[:1].expand(missing, *x_adv.shape[1:])))
        logits: Tensor = self.model(x_adv)
        self._found.forwards.index_add_(0, self.rows, self.standing.long())
        return logits[: len(self.rows)]

    @torch.no_grad()
    def test(self, x_adv: Tensor) -> Tensor:
        """Takes the verdict at x_adv, (R, C, H, W), and returns the logits there, (R, K); (R, 0) and no pass where none stands."""
        if not self.alive:
            return x_adv.new_zeros(len(x_adv), 0)
        logits = self.logits(x_adv)
        self._judge(x_adv, logits)
        return logits

    def evaluate(self, x_adv: Tensor, loss: Callable[..., Tensor]) -> tuple[Tensor, Tensor]:
        """Takes the verdict at x_adv; the losses there, (R,), and their gradients, (R, C, H, W), from the same forward pass.

        The loss is called as loss(logits, y), or loss(logits, y, target) in a targeted search. A gradient entry that is
        not finite is 0. Once none stands, no backward pass is made: losses and gradients are 0.
        """
        if not self.alive:
            return x_adv.new_zeros(len(x_adv)), torch.zeros_like(x_adv)
        with torch.enable_grad():
            leaf = x_adv.detach().requires_grad_()
            logits = self.logits(leaf)
            aims = (self.y,) if self.target is None else (self.y, self.target)
            losses = loss(logits, *aims)
            total = losses.sum()
        self._judge(leaf.detach(), logits.detach())
        if not self.alive:
            return losses.detach(), torch.zeros_like(x_adv)
        (grad,) = torch.autograd.grad(total, leaf)
        self._found.backwards.index_add_(0, self.rows, self.standing.long())
        return losses.detach(), grad.nan_to_num(0.0, 0.0, 0.0)

    def repack(self) -> Tensor | None:
        """Cuts the working rows to the standing ones if an eighth has fallen; the indices kept, to cut other state by, else None."""
        fallen = len(self.rows) - self.alive
        if not fallen or fallen * REPACK < len(self.rows):
            return None
        keep = self.standing.nonzero().flatten()
        self.rows, self.x, self.y, self.standing = self.rows[keep], self.x[keep], self.y[keep], self.standing[keep]
        self.target = None if self.target is None else self.target[keep]
        return keep

    def pack(self, *state: Tensor) -> tuple[Tensor, ...]:
        """The state tensors, each (R, ...), cut along with the working rows where `repack` cuts them."""
        keep = self.repack()
        return state if keep is None else tuple(part[keep] for part in state)

    def found(self) -> Found:
        """What was found, for all B samples."""
        return self._found

    def _judge(self, x_adv: Tensor, logits: Tensor) -> None:
        """Records which samples fall at x_adv."""
        finite = logits.isfinite().all(1)
        labels = logits.argmax(1)
        wrong = self.standing & finite & (labels != self.y)
        self._found.nonfinite[self.rows] |= self.standing & ~finite
        if bool(wrong.any()):  # the only time that the host waits for the device
            self._record(x_adv, labels, wrong & self.threat.contains(self.x, x_adv))
        self.tested += 1

    def _record(self, x_adv: Tensor, labels: Tensor, wrong: Tensor) -> None:
        """Stores the wrong points; the samples whose goal is reached stand no more."""
        goal = wrong if self.target is None else wrong & (labels == self.target)
        self._found.x_adv[self.rows[wrong]] = x_adv[wrong]
        self._found.fooled[self.rows[goal]] = True
        self._found.step[self.rows[goal]] = self.tested
        self.standing = self.standing & ~goal
        self.alive = int(self.standing.sum())
