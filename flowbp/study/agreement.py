"""What the gradients of disjoint batches have in common: the signal's share in them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import NormalDist

import attrs
import torch
from torch import Tensor

from flowbp.evaluation.statistics import Gain, stratified_gain
from flowbp.study.comparison import student

_RESAMPLES = 4000

Gradient = Mapping[str, Tensor]
"""By the name of a parameter."""


def inner(left: Gradient, right: Gradient) -> float:
    """The inner product of two gradients, as one long vector each, summed in float64."""
    return math.fsum((left[name].double() * right[name].double()).sum().item() for name in left)


def norm(gradient: Gradient) -> float:
    """The length of a gradient as one long vector."""
    return math.sqrt(inner(gradient, gradient))


@attrs.frozen(kw_only=True)
class Agreement:
    """How far the gradients g_1 … g_K of K disjoint batches agree.

    Args:
        norms: `|g_k|` of each batch.
        product: the mean of `g_j · g_k` over pairs j ≠ k, without bias for `|E g|²`.
        square: the mean of `|g_k|²`, without bias for `E |g|²`.
        cosine: the mean cosine of two batches.

    Example:
        >>> both = GradientSums()
        >>> for value in ([3.0, 4.0], [3.0, -4.0]):
        ...     both.add({"weight": torch.tensor(value)})
        >>> both.agreement.product, both.agreement.square, both.agreement.signal_share
        (-7.0, 25.0, -0.28)
    """

    norms: tuple[float, ...]
    product: float
    square: float
    cosine: float

    @property
    def signal_share(self) -> float:
        """`|E g|² / E |g|²`: 1 where all batches agree, 0 where they are noise, estimated."""
        return self.product / self.square if self.square else math.nan


class GradientSums:
    """Gathers the gradients of disjoint batches, of which it keeps three sums and no more.

    Example:
        >>> sums = GradientSums()
        >>> sums.add({"weight": torch.tensor([1.0, 3.0])})
        >>> sums.add({"weight": torch.tensor([3.0, 3.0])})
        >>> sums.mean, sums.mean_square
        ({'weight': tensor([2., 3.])}, {'weight': tensor([5., 9.])})
    """

    def __init__(self) -> None:
        self._norms: list[float] = []
        self._sum: dict[str, Tensor] = {}
        self._units: dict[str, Tensor] = {}
        self._squares: dict[str, Tensor] = {}

    def add(self, gradient: Gradient) -> None:
        """Take the gradient of one more batch."""
        size = norm(gradient)
        self._norms.append(size)
        for name, each in gradient.items():
            _accumulate(self._sum, name, each)
            _accumulate(self._squares, name, each.square())
            _accumulate(self._units, name, each / size if size else each)

    @property
    def mean(self) -> Gradient:
        """That of all samples together."""
        return {name: each / len(self._norms) for name, each in self._sum.items()}

    @property
    def mean_square(self) -> Gradient:
        """Of each element over the batches, what Adam's second moment comes to."""
        return {name: each / len(self._norms) for name, each in self._squares.items()}

    @property
    def agreement(self) -> Agreement:
        """What the batches have in common; two at least."""
        count = len(self._norms)
        if count < 2:
            raise ValueError(f"agreement needs the gradients of 2 batches or more, got {count}")
        pairs, squares = count * (count - 1), math.fsum(size**2 for size in self._norms)
        # The sum over all pairs is the square of the sum without that of each with itself.
        units = inner(self._units, self._units) - sum(size > 0 for size in self._norms)
        return Agreement(
            norms=tuple(self._norms),
            product=(inner(self._sum, self._sum) - squares) / pairs,
            square=squares / count,
            cosine=units / pairs,
        )


def _accumulate(sums: dict[str, Tensor], name: str, value: Tensor) -> None:
    sums[name] = sums[name] + value if name in sums else value.clone()


def pooled_share(draws: Sequence[Agreement], *, seed: int = 0) -> Gain:
    """The signal's share over several draws: the ratio of both means.

    The ratio itself is drawn, draw by draw, with the quantiles of `stratified_gain`: where a
    single draw has most of the norm, as of exact gradients, the interval is as wide as draws
    without it.
    """
    count = len(draws)
    sums = torch.tensor([[each.product, each.square] for each in draws], dtype=torch.float64)
    product, square = sums.sum(0).tolist()
    share = product / square if square else math.nan
    if count == 1 or not square:
        return Gain(share, share, share)
    generator = torch.Generator().manual_seed(seed)
    chosen = torch.randint(count, (_RESAMPLES, count), generator=generator)
    together = sums[chosen].sum(1)
    ratios = (together[:, 0] / together[:, 1]).nan_to_num(share)
    tail = NormalDist().cdf(-math.sqrt(count / (count - 1)) * student(count - 1))
    ends = torch.tensor([tail, 1 - tail], dtype=torch.float64)
    low, high = torch.quantile(ratios, ends).tolist()
    return Gain(share, low, high)


def over_draws(values: Sequence[float], *, seed: int = 0) -> Gain:
    """A mean over draws with its interval, each draw a cluster."""
    return stratified_gain([values], generator=torch.Generator().manual_seed(seed))


def spread_of_norms(draws: Sequence[Agreement]) -> float:
    """The largest norm of a batch over the smallest, of all draws."""
    norms = [size for each in draws for size in each.norms]
    return max(norms) / min(norms) if min(norms) > 0 else math.inf
