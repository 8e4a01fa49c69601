"""Methods against each other: the rate of each, and intervals over prompts and seeds together."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import attrs
import torch
from torch import Tensor

from flowbp.evaluation.statistics import Gain

_LEVEL = 0.95
_RESAMPLES = 4000


@attrs.frozen
class Standing:
    """How a method stands among others.

    Args:
        gain: its mean gain with an interval over prompts and seeds together.
        against: its gain minus that of each other method, by name, paired likewise.
        best: the probability that it is the best of them.
    """

    gain: Gain
    against: Mapping[str, Gain]
    best: float

    @property
    def behind(self) -> Gain | None:
        """Its gain minus the best other method's; None without another."""
        return min(self.against.values(), key=lambda each: each.mean, default=None)


def standings(
    gains: Mapping[str, Tensor], prompts: Sequence[str], *, seed: int = 0
) -> dict[str, Standing]:
    """Compare methods by the gains of the same prompts and seeds.

    Seeds and prompts are drawn with replacement, the same for all methods, as two crossed samples:
    ``m* = m + √(S/(S-1)) (m*_S - m) + √(P/(P-1)) (m*_P - m)``, with the means m*_S over the seeds
    drawn and m*_P over the prompts drawn. What seeds and prompts have only together enters by both,
    so that intervals are rather too wide than too narrow. An interval is the mean ± t times the
    standard deviation of the m*, with t of Student's distribution at Welch and Satterthwaite's
    degrees of freedom: with three seeds that differ much it is wide. With one seed it is of prompts
    alone.

    Args:
        gains: (S, P) by method, of S seeds and P prompts.
        prompts: P texts; equal ones are drawn together.
        seed: of the bootstrap.

    Raises:
        ValueError: there is no method, or gains of other shapes than the first's.

    Example:
        >>> better = torch.tensor([[0.3, 0.2, 0.4], [0.2, 0.3, 0.5]])
        >>> found = standings({"a": better, "b": better - 0.25}, ["x", "y", "z"])
        >>> round(found["a"].behind.mean, 2), found["a"].best
        (0.25, 1.0)

    Reference: Owen, "The pigeonhole bootstrap", Annals of Applied Statistics 1, 2007;
    Satterthwaite, "An approximate distribution of estimates of variance components", 1946.
    """
    if not gains:
        raise ValueError("`gains` is empty; give those of one method at least")
    stacked = torch.stack([each.double() for each in gains.values()])
    if stacked.ndim != 3 or stacked.shape[2] != len(prompts) or not stacked.numel():
        raise ValueError(
            f"`gains` must be of shape (seeds, {len(prompts)}), got {tuple(stacked.shape[1:])}"
        )
    crossed = _Crossed(stacked, prompts, seed)
    draws = crossed.draws
    first = draws == draws.max(0).values
    shares = (first.double() / first.sum(0)).mean(1).tolist()
    found = {}
    for number, name in enumerate(gains):
        found[name] = Standing(
            gain=crossed.interval(number, None),
            against={
                other: crossed.interval(number, rival)
                for rival, other in enumerate(gains)
                if rival != number
            },
            best=shares[number],
        )
    return found


class _Crossed:
    """Bootstrap draws over crossed seeds and prompts, of the methods (M, S, P) together."""

    def __init__(self, gains: Tensor, prompts: Sequence[str], seed: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        places = {text: place for place, text in enumerate(dict.fromkeys(prompts))}
        index = torch.tensor([places[text] for text in prompts])
        methods, seeds, _ = gains.shape
        self._sizes = torch.bincount(index, minlength=len(places)).double()
        zero = torch.zeros(methods, len(places), dtype=torch.float64)
        sums = zero.index_add(1, index, gains.mean(1))
        self.means = gains.mean((1, 2))
        self._by_seed = gains.mean(2)
        self._by_prompt = sums
        drawn = torch.randint(seeds, (_RESAMPLES, seeds), generator=generator)
        self._of_seeds = _inflation(seeds) * (self._by_seed[:, drawn].mean(2) - self.means[:, None])
        drawn = torch.randint(len(places), (_RESAMPLES, len(places)), generator=generator)
        together = sums[:, drawn].sum(2) / self._sizes[drawn].sum(1)
        self._of_prompts = _inflation(len(places)) * (together - self.means[:, None])

    @property
    def draws(self) -> Tensor:
        """(M, R) means of methods that could have been."""
        return self.means[:, None] + self._of_seeds + self._of_prompts

    def interval(self, method: int, rival: int | None) -> Gain:
        """That of a method's mean, or of its difference to another's."""
        parts = [self._of_seeds[method], self._of_prompts[method]]
        mean = self.means[method].item()
        if rival is not None:
            parts = [parts[0] - self._of_seeds[rival], parts[1] - self._of_prompts[rival]]
            mean -= self.means[rival].item()
        variances = [part.var().item() for part in parts]
        counts = (self._by_seed.shape[1], len(self._sizes))
        half = student(freedom(variances, counts)) * math.sqrt(sum(variances))
        return Gain(mean, mean - half, mean + half)


def _inflation(count: int) -> float:
    # What is drawn varies less than the population that it stands for.
    return math.sqrt(count / (count - 1)) if count > 1 else 0.0


def freedom(variances: Sequence[float], counts: Sequence[int]) -> float:
    """Welch and Satterthwaite's degrees of freedom of a sum of variances of means."""
    parts = [v**2 / (n - 1) for v, n in zip(variances, counts, strict=True) if n > 1]
    return sum(variances) ** 2 / sum(parts) if sum(parts) > 0 else math.inf


def student(degrees: float, level: float = _LEVEL) -> float:
    """The number that Student's t stays within with probability `level`, of 1 degree or more.

    In the angle of ``t = √ν tan φ`` the density is proportional to ``cos(φ)^(ν - 1)``.
    """
    degrees = min(max(degrees, 1.0), 1e4)
    # Beyond 12 / √ν nothing is left of it.
    end = min(math.pi / 2, 12 / math.sqrt(degrees))
    angles = torch.linspace(0, end, 100_001, dtype=torch.float64)
    inside = torch.cumulative_trapezoid(angles.cos().clamp(min=0) ** (degrees - 1), angles)
    place = int((inside < level * inside[-1]).sum())
    return math.sqrt(degrees) * math.tan(angles[place + 1].item())


def halves(
    prompts: Sequence[tuple[str, str]], share: float
) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The places of prompts on which rates are chosen, and of those on which they are judged.

    Equal texts are on one side, and each kind is divided by the same share, evenly over the list.

    Args:
        prompts: text and kind of each.
        share: of the texts that choose.

    Example:
        >>> halves([("a", "x"), ("b", "x"), ("a", "x"), ("c", "y"), ("d", "y")], 0.5)
        ((1, 4), (0, 2, 3))
    """
    kinds: dict[str, dict[str, None]] = {}
    for text, kind in prompts:
        kinds.setdefault(kind, {})[text] = None
    choosing = {
        text
        for texts in kinds.values()
        for number, text in enumerate(texts)
        if math.floor((number + 1) * share) > math.floor(number * share)
    }
    sides = [text in choosing for text, _ in prompts]
    return (
        tuple(place for place, chosen in enumerate(sides) if chosen),
        tuple(place for place, chosen in enumerate(sides) if not chosen),
    )
