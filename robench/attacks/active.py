"""The one helper of all native attacks: the active set, pass counting and the record of what was found."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from robench.core.errors import InputError
from robench.core.model_calls import autograd_tensor, leaf_gradient, leaf_of, least_rows, padded_logits
from robench.core.threat import Threat, per_sample, refuse_too_large_eps
from robench.core.types import AttackResult

REPACK = 8  # the working rows are packed anew once an eighth of them has fallen: each new batch size costs set-up time
ROUND = 4  # a pass that leaves rows out has a multiple of so many: each new batch size costs set-up time
ENOUGH = 8  # images: where the gradients of fewer are all 0, that says little
PATIENCE = 8  # off the CPU, the host asks the device how many stand only after so many model calls


class Search:
    """What an attack still works on, and what it has found so far.

    Of the B samples given, `rows` (R,) says which are the working rows; `x`, `y` and `target` are cut to them. A fooled
    sample stands no more, and leaves the working rows at the next repack; until then it is a passenger of the model
    calls, neither recorded nor counted. An attack takes its turns from `turns`, keeps its own per-sample tensors in step
    with `pack`, and takes random numbers from `draws.take(search.rows)`.

    The goal is argmax != y, or argmax == target once `aim` has set targets. Only a point inside the threat with finite
    logits reaches it. A targeted search also keeps the last wrong point of a sample that has not reached its target.

    A model that is a cheaper stand-in carries the true one as `exact`: that one is asked about every claim before it counts,
    so a stand-in can miss an adversarial point but not invent one.

    Args:
        model: the classifier in eval mode with frozen parameters.
        x: clean images (B, C, H, W), float in [0, 1].
        y: labels (B,) int64.
        threat: only points inside it count.
        stay: true: fooled samples go on to the end of the run and their last wrong point is kept. For attacks on randomised models,
            where one lucky pass must not end the search.

    Attributes:
        rows: the working rows, (R,) int64 indices of the samples given.
        standing: which working rows are not fooled and not given up, (R,) bool.
        alive: how many stand, as far as the host knows; never too few.
        target: the classes to reach, (R,) int64, or None.

    Raises:
        InputError: the radius is larger than any distance of two images, or the call is made inside torch.inference_mode().
    """

    def __init__(self, model: nn.Module, x: Tensor, y: Tensor, threat: Threat, *, stay: bool = False) -> None:
        refuse_too_large_eps(threat, x.shape[1:])
        if torch.is_inference_mode_enabled():
            raise InputError("inside torch.inference_mode() there are no gradients, so that attacks fail: call them outside of it")
        self.model, self.threat, self.x, self.y, self.stay = model, threat, autograd_tensor(x).contiguous(), autograd_tensor(y), stay
        self.exact: nn.Module | None = getattr(model, "exact", None)
        self.target: Tensor | None = None
        self.rows = torch.arange(len(x), device=x.device)
        self.standing = torch.ones(len(x), dtype=torch.bool, device=x.device)  # of the working rows
        self.alive = len(x)  # how many stand, as far as the host knows: never too few
        self._patience = 1 if x.device.type == "cpu" or self.exact is not None else PATIENCE
        self._calls, self._looked = 0, False
        counts, none = torch.zeros_like(self.rows), torch.zeros_like(self.standing)
        self._found = AttackResult(x.clone(), none, counts - 1, counts, counts.clone(), none.clone())
        self._tested = counts.clone()  # how many points of each working row were tested: the next one is this `step`
        self._begin()

    def aim(self, target: Tensor) -> None:
        """Sets the class that each sample is to get; a sample whose target is its own label cannot be attacked and stands no more.

        Args:
            target: classes (B,) int64, for all samples given.
        """
        self.target = target[self.rows]
        self.standing = self.standing & (self.target != self.y)
        self.alive = int(self.standing.sum())

    def dismiss(self, hopeless: Tensor) -> None:
        """Gives up working rows: they stand no more, and nothing was found for them.

        Args:
            hopeless: which working rows to give up, (R,) bool.
        """
        self.standing = self.standing & ~hopeless
        self.alive = int(self.standing.sum())

    def turns(self, count: int) -> Iterator[int]:
        """0, 1, ... up to `count` turns, as long as a sample stands.

        Args:
            count: the largest number of turns.
        """
        for turn in range(count):
            if not self.alive:
                return
            yield turn

    def logits(self, x_adv: Tensor, at: Tensor | None = None) -> Tensor:
        """The logits at x_adv, (R, K): one counted forward pass, no verdict.

        Args:
            x_adv: one point per working row, (R, C, H, W), or per row of `at`, (M, C, H, W).
            at: indices (M,) of the working rows that the points belong to; None for all.
        """
        self._count(self._forwards, at)
        return padded_logits(self.model, x_adv)

    @torch.no_grad()
    def test(self, x_adv: Tensor, at: Tensor | None = None) -> Tensor:
        """Takes the verdict at x_adv and returns the logits there, (R, K); (R, 0) and no pass where none stands.

        Args:
            x_adv: one point per working row, (R, C, H, W), or per row of `at`, (M, C, H, W).
            at: indices (M,) of the working rows that the points belong to; the logits are then (M, K). None for all.
        """
        if not self.alive:
            return x_adv.new_zeros(len(x_adv), 0)
        logits = self.logits(x_adv, at)
        self._judge(x_adv, logits, at)
        return logits

    @torch.no_grad()
    def ask(self, x_adv: Tensor, new: Tensor) -> Tensor:
        """As `test`, where only some points are untested: the others count a step but no pass, and get no verdict.

        Where the host looks anyway, rows are left out of the pass if that makes it smaller by an eighth: below that the copy of
        the others costs what it saves.

        Args:
            x_adv: one point per working row, (R, C, H, W).
            new: which of these points are untested, (R,) bool.

        Returns:
            The logits, (R, K), true for `new` alone; (R, 0) and no pass where none stands or, as far as the host knows, none is new.
        """
        new, at = new & self.standing, None
        row_count = -(-int(new.sum()) // ROUND) * ROUND if self._patience == 1 else len(new)
        if not self.alive or not row_count:
            self._count(self._tested, None)
            return x_adv.new_zeros(len(x_adv), 0)
        if REPACK * max(row_count, least_rows(x_adv)) <= (REPACK - 1) * len(new):
            at = new.byte().argsort(descending=True, stable=True)[:row_count]
        self._forwards += new
        points = x_adv if at is None else x_adv[at]
        logits = padded_logits(self.model, points)
        self._judge(points, logits, at, new)
        return logits if at is None else logits.new_zeros(len(new), logits.shape[1]).index_copy_(0, at, logits)

    def evaluate(
        self, x_adv: Tensor, loss: Callable[..., Tensor], at: Tensor | None = None, *, judged: bool = True
    ) -> tuple[Tensor, Tensor]:
        """Takes the verdict at x_adv; the losses there, (R,), and their gradients, (R, C, H, W), from the same forward pass.

        A gradient entry that is not finite is 0. Once none stands, no backward pass is made: losses and gradients are 0.

        Args:
            x_adv: one point per working row, (R, C, H, W), or per row of `at`, (M, C, H, W).
            loss: called as loss(logits, y), or loss(logits, y, target) in a targeted search; its values (R,) are taken in the type of
                x_adv, whatever that of the logits.
            at: indices (M,) of the working rows that the points belong to; None for all.
            judged: false: the pass is counted, and no verdict taken.
        """
        if not self.alive:
            return x_adv.new_zeros(len(x_adv)), torch.zeros_like(x_adv)
        y, target = (self.y, self.target) if at is None else (self.y[at], None if self.target is None else self.target[at])
        with torch.enable_grad():
            leaf = leaf_of(x_adv)
            logits = self.logits(leaf, at)
            losses = (loss(logits, y) if target is None else loss(logits, y, target)).to(x_adv.dtype)
            total = losses.sum()
        if judged:
            self._judge(leaf.detach(), logits.detach(), at)
        if not self.alive:
            return losses.detach(), torch.zeros_like(x_adv)
        self._count(self._backwards, at)
        first, self._looked = not self._looked, True
        return losses.detach(), leaf_gradient(total, leaf, enough=ENOUGH if first else None, tell=True)

    def slopes(self, x_adv: Tensor, goals: Callable[[Tensor], Tensor], at: Tensor | None = None) -> tuple[Tensor, Tensor, Iterator[Tensor]]:
        """Takes the verdict at x_adv; logits, quantities of them, and the gradient of each quantity, all from one forward pass.

        Args:
            x_adv: one point per working row, (R, C, H, W), or per row of `at`, (M, C, H, W).
            goals: maps the logits (R, K) to J quantities, (R, J).
            at: indices (M,) of the working rows that the points belong to; None for all.

        Returns:
            The logits (R, K), the quantities (R, J), and an iterator over the J gradients (R, C, H, W). Each gradient is one backward pass,
            made and counted when it is asked for. A gradient entry that is not finite is 0, and so are all of them, without a pass, once
            none stands.
        """
        with torch.enable_grad():
            leaf = leaf_of(x_adv)
            logits = self.logits(leaf, at)
            values = goals(logits)
            totals = values.sum(0).unbind()
        self._judge(leaf.detach(), logits.detach(), at)

        def gradients() -> Iterator[Tensor]:
            for column, total in enumerate(totals, 1):
                if not self.alive:
                    yield torch.zeros_like(x_adv)
                    continue
                self._count(self._backwards, at)
                yield leaf_gradient(total, leaf, again=column < len(totals), tell=True)

        return logits.detach(), values.detach().to(x_adv.dtype), gradients()

    def repack(self) -> Tensor | None:
        """Cuts the working rows to the standing ones if an eighth has fallen; the indices kept, to cut other state by, else None."""
        fallen = len(self.rows) - self.alive
        if not fallen or fallen * REPACK < len(self.rows):
            return None
        keep = self.standing.nonzero().flatten()
        self._write()
        self.rows, self.x, self.y, self.standing = self.rows[keep], self.x[keep], self.y[keep], self.standing[keep]
        self.target = None if self.target is None else self.target[keep]
        self._tested = self._tested[keep]
        self._begin()
        return keep

    def pack(self, *state: Tensor) -> tuple[Tensor, ...]:
        """The state tensors cut along with the working rows where `repack` cuts them.

        Args:
            state: tensors (R, ...), one row per working row.
        """
        keep = self.repack()
        return state if keep is None else tuple(part[keep] for part in state)

    def result(self) -> AttackResult:
        """What was found, for all B samples."""
        self._write()
        return self._found

    def found(self) -> AttackResult:
        """The same as `result`; attacks in users' files may call it by this name."""
        return self.result()

    def _begin(self) -> None:
        """Takes the working rows' part of the record, to be kept without indices until `_write`."""
        self._x_adv = self._found.x_adv[self.rows]
        self._fooled, self._step = self._found.fooled[self.rows], self._found.step[self.rows]
        self._forwards, self._backwards = self._found.forwards[self.rows], self._found.backwards[self.rows]
        self._nonfinite = self._found.nonfinite[self.rows]

    def _write(self) -> None:
        """Puts the working rows' part of the record back into the whole."""
        whole, rows = self._found, self.rows
        whole.x_adv[rows], whole.fooled[rows], whole.step[rows] = self._x_adv, self._fooled, self._step
        whole.forwards[rows], whole.backwards[rows], whole.nonfinite[rows] = self._forwards, self._backwards, self._nonfinite

    def _count(self, counter: Tensor, at: Tensor | None) -> None:
        """Counts one pass of the standing ones among the rows called."""
        if at is None:
            counter += self.standing
        else:
            counter[at] += self.standing[at].long()

    def _judge(self, x_adv: Tensor, logits: Tensor, at: Tensor | None, new: Tensor | None = None) -> None:
        """Records which samples fall at x_adv, only those of `new` if given: then the step of all working rows is counted.

        On the CPU, and where a stand-in's claims need a second look, the host looks each time.
        """
        among = self.standing if new is None else new
        standing, y = (among, self.y) if at is None else (among[at], self.y[at])
        finite, labels = logits.isfinite().all(1), logits.argmax(1)
        wrong = standing & finite & (labels != y)
        if at is None:
            self._nonfinite |= standing & ~finite
        else:
            self._nonfinite[at] |= standing & ~finite
        self._calls += 1
        if self._patience > 1 or bool(wrong.any()):
            x, rows = (self.x, slice(None)) if at is None else (self.x[at], at)
            wrong, labels = self._confirmed(x_adv, labels, y, wrong & self.threat.contains(x, x_adv))
            if self._patience > 1 or bool(wrong.any()):  # wrong points outside the threat are common in a search for the nearest one
                self._record(x_adv, labels, wrong, rows)
        self._count(self._tested, at if new is None else None)
        if self._patience > 1 and self._calls % self._patience == 0:
            self.alive = int(self.standing.sum())

    def _confirmed(self, x_adv: Tensor, labels: Tensor, y: Tensor, wrong: Tensor) -> tuple[Tensor, Tensor]:
        """The claims that the true model confirms, and its labels there."""
        if self.exact is None or not bool(wrong.any()):
            return wrong, labels
        claims = wrong.nonzero().flatten()
        logits = padded_logits(self.exact, x_adv[claims])
        true = logits.argmax(1)
        verdicts = logits.isfinite().all(1) & (true != y[claims])
        return wrong.index_copy(0, claims, verdicts), labels.index_copy(0, claims, true)

    def _record(self, x_adv: Tensor, labels: Tensor, wrong: Tensor, rows: Tensor | slice) -> None:
        """Stores the wrong points of `rows`; the samples whose goal is reached stand no more, unless they stay."""
        goal = wrong if self.target is None else wrong & (labels == self.target[rows])
        points = torch.where(per_sample(wrong, x_adv), x_adv, self._x_adv[rows])
        self._x_adv = self._x_adv.index_copy(0, rows, points) if isinstance(rows, Tensor) else points
        self._step[rows] = torch.where(goal & ~self._fooled[rows], self._tested[rows], self._step[rows])
        self._fooled[rows] |= goal
        if not self.stay:
            self.standing = self.standing & ~self._fooled
        if self._patience == 1:
            self.alive = int(self.standing.sum())
