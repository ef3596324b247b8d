"""Counter-based random numbers: every number is a pure function of (seed, key, sample id, step, place).

No verdict may depend on batch size, order, sharding or resume, so nothing here keeps a state. The generator is
Philox-4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3", SC'11), written in int64 tensor
arithmetic: equal bits on every device.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

LOW = 0xFFFFFFFF
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)


def philox(counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[int, int]) -> tuple[Tensor, ...]:
    """Four random 32-bit words for each counter, by Philox-4x32-10.

    Args:
        counter: four int64 tensors that broadcast together, each a 32-bit word.
        key: two 32-bit words.

    Returns:
        Four int64 tensors of the broadcast shape, with values in [0, 2^32).
    """
    c0, c1, c2, c3 = torch.broadcast_tensors(*counter)
    k0, k1 = key
    for _ in range(10):
        p0, p1 = c0 * MULTIPLIERS[0], c2 * MULTIPLIERS[1]
        c0 = (p1 >> 32).bitwise_and_(LOW).bitwise_xor_(c1).bitwise_xor_(k0)
        c2 = (p0 >> 32).bitwise_and_(LOW).bitwise_xor_(c3).bitwise_xor_(k1)
        c1, c3 = p1.bitwise_and_(LOW), p0.bitwise_and_(LOW)
        k0, k1 = (k0 + WEYL[0]) & LOW, (k1 + WEYL[1]) & LOW
    return c0, c1, c2, c3


@dataclass(frozen=True)
class Draws:
    """Random numbers for the samples `ids`: every number depends on the seed, the key, the id and the step alone.

    Attributes:
        seed: the seed of the run.
        ids: sample ids, (B,) int64.
        key: what the numbers are for, such as "eval/pgd/restart-0".
    """

    seed: int
    ids: Tensor
    key: str = ""

    def child(self, *names: object) -> Draws:
        """The same samples under a longer key: other numbers, independent of these.

        Args:
            *names: parts that are added to the key, separated by slashes.
        """
        return replace(self, key="/".join([self.key, *map(str, names)]))

    def take(self, keep: Tensor) -> Draws:
        """The draws of some samples alone; their numbers stay what they were.

        Args:
            keep: which samples: a mask (B,) bool, or indices.
        """
        return replace(self, ids=self.ids[keep])

    def uniform(self, shape: tuple[int, ...], step: int = 0) -> Tensor:
        """Uniform numbers in [0, 1), (B, *shape) float32, multiples of 2^-24: equal to the bit on every device.

        Args:
            shape: of the numbers of one sample.
            step: number of the draw; another step gives other numbers.
        """
        return (self._words("uniform", shape, step) >> 8).to(torch.float32) * 2.0**-24

    def normal(self, shape: tuple[int, ...], step: int = 0) -> Tensor:
        """Standard normal numbers, (B, *shape) float32: equal to about 1e-6 on every device (Box-Muller in float64).

        Args:
            shape: of the numbers of one sample.
            step: number of the draw; another step gives other numbers.
        """
        even = math.prod(shape) + 1 & ~1
        pairs = self._words("normal", (even // 2, 2), step).to(torch.float64)
        radius = (-2 * ((pairs[..., 0] + 1) * 2.0**-32).log()).sqrt()
        angle = pairs[..., 1] * (2 * math.pi * 2.0**-32)
        both = torch.stack((radius * angle.cos(), radius * angle.sin()), -1)
        return both.flatten(1)[:, : math.prod(shape)].reshape(len(self.ids), *shape).to(torch.float32)

    def signs(self, shape: tuple[int, ...], step: int = 0) -> Tensor:
        """Random signs, -1.0 or +1.0 with equal probability, (B, *shape) float32.

        Args:
            shape: of the signs of one sample.
            step: number of the draw; another step gives other signs.
        """
        return (self._words("signs", shape, step) >> 31).to(torch.float32) * 2 - 1

    def integers(self, high: int, shape: tuple[int, ...] = (), step: int = 0) -> Tensor:
        """Whole numbers in [0, high), (B, *shape) int64.

        Args:
            high: at most 2^31; the bias is below high * 2^-32.
            shape: of the numbers of one sample.
            step: number of the draw; another step gives other numbers.
        """
        return self._words("integers", shape, step) * high >> 32

    def permutation(self, step: int = 0) -> Tensor:
        """A random order of the samples: their places 0 to B - 1 sorted by a random 64-bit word of each, (B,) int64.

        So the relative order of two samples does not depend on which others there are.

        Args:
            step: number of the draw; another step gives another order.
        """
        high, low = self._words("permutation", (2,), step).unbind(1)
        first = low.argsort(stable=True)
        return first[high[first].argsort(stable=True)]

    def beta(self, a: float, b: float, step: int = 0) -> Tensor:
        """Numbers in [0, 1] from the Beta(a, b) distribution, (B,) float64: the share of one of two gamma numbers in their sum.

        Args:
            a: above 0.
            b: above 0.
            step: number of the draw; another step gives other numbers.
        """
        return (self.child("a").log_gamma(a, step) - self.child("b").log_gamma(b, step)).sigmoid()

    def log_gamma(self, shape: float, step: int = 0) -> Tensor:
        """The logarithm of numbers from the gamma distribution of scale 1, (B,) float64: a small shape leaves numbers below any float.

        By rejection, Marsaglia & Tsang, "A simple method for generating gamma variables", ACM Transactions on Mathematical Software 2000;
        shapes below 1 by the number of shape + 1 times U^(1 / shape).

        Args:
            shape: of the distribution, above 0.
            step: number of the draw; another step gives other numbers.
        """
        d = (shape if shape >= 1 else shape + 1) - 1 / 3
        result = torch.full((len(self.ids),), float("nan"), dtype=torch.float64, device=self.ids.device)
        attempt = 0
        while bool((open_places := result.isnan().nonzero().flatten()).numel()):
            draws = self.take(open_places).child("attempt", attempt)
            x, u = draws.normal((), step).double(), draws._open_uniform(step)
            v = (1 + x / math.sqrt(9 * d)) ** 3
            accepted = (v > 0) & (u.log() < 0.5 * x.square() + d * (1 - v + v.clamp_min(1e-300).log()))
            result[open_places[accepted]] = math.log(d) + v[accepted].log()
            attempt += 1
        return result if shape >= 1 else result + self.child("boost")._open_uniform(step).log() / shape

    def _open_uniform(self, step: int) -> Tensor:
        """Uniform numbers in (0, 1), (B,) float64, whose logarithm is finite."""
        return (self._words("open", (), step).double() + 0.5) * 2.0**-32

    def _words(self, kind: str, shape: tuple[int, ...], step: int) -> Tensor:
        """Random 32-bit words, (B, *shape) int64: Philox with block, step and id in the counter, seed and keys in the key."""
        digest = hashlib.blake2b(f"{self.seed}|{self.key}|{kind}".encode(), digest_size=8).digest()
        key = (int.from_bytes(digest[:4], "little"), int.from_bytes(digest[4:], "little"))
        size = math.prod(shape)
        block = torch.arange(-(-size // 4), device=self.ids.device).expand(len(self.ids), -1)
        ids = self.ids.view(-1, 1)
        words = philox((block, torch.full_like(block, step & LOW), ids & LOW, ids >> 32 & LOW), key)
        return torch.stack(torch.broadcast_tensors(*words), -1).flatten(1)[:, :size].reshape(len(self.ids), *shape)
