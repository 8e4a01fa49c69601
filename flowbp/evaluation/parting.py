"""Where the trained-on reward and a held-out figure part: what betrays reward hacking."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import torch

from flowbp.evaluation.significance import LEAST, LEVEL, sign_flip_p

_Each = Mapping[str, Sequence[float]]


@attrs.frozen
class Parting:
    """A held-out figure that got worse while the reward went on rising.

    Args:
        figure: its name.
        best: the step at which it was best.
        since: the first step since when the two are apart, up to the last.
        prompts: how many different ones the figure is known on at best and then.

    Example:
        >>> Parting("accuracy", best=50, since=100, prompts=48).since
        100
    """

    figure: str
    best: int
    since: int
    prompts: int


def parting(
    rows: Sequence[Mapping[str, Any]],
    each: Sequence[_Each],
    figure: str,
    trained: str,
    *,
    prompts: Sequence[str] | None = None,
    of: int = 1,
    sign: int = 1,
    seed: int = 0,
) -> Parting | None:
    """Find where a figure and the reward part, if they do and have not met again.

    At an evaluation the two are apart if, prompt by prompt, the figure is below its best and the
    reward above what it was then, both by more than chance: sign-flip tests of the differences,
    the reward's at `LEVEL`. The best of many evaluations is in part a lucky one, so that the
    figure's is at `LEVEL` divided by the number of evaluations that could have been the best, and
    of figures that are looked at. They part if they are apart at the last evaluation.

    Args:
        rows: evaluations with `step`, in order.
        each: of the same evaluations, by name, a number for each prompt, NaN for none; those that
            lack one of the two, or have other prompts than the last, are left out.
        figure: the held-out one.
        trained: the reward.
        prompts: their texts, of which equal ones are one; evaluations of another number of them
            are left out. None if all differ.
        of: how many figures are looked at.
        sign: of the figure: 1 where more of it is better, -1 where less is, which is the same of
            its negative.
        seed: of the tests.

    Returns:
        Where; None if they do not part, and of fewer than `LEAST` prompts.

    Raises:
        ValueError: `each` is not as long as `rows`, or another sign.

    Example:
        >>> rows = [{"step": 25 * i} for i in range(5)]
        >>> each = [{"reward": [i] * 20, "accuracy": [a] * 20}
        ...         for i, a in enumerate((0.5, 0.7, 0.8, 0.6, 0.5))]
        >>> parting(rows, each, "accuracy", "reward")
        Parting(figure='accuracy', best=50, since=75, prompts=20)
    """
    if sign not in (-1, 1):
        raise ValueError(
            f"`sign` must be 1 (more is better) or -1 (less is better), got {sign!r}; where "
            "neither is better nothing parts"
        )
    points = [
        _Point(row["step"], [sign * value for value in own[figure]], own[trained])
        for row, own in zip(rows, each, strict=True)
        if figure in own and trained in own
    ]
    if points:
        count = len(points[-1].figure if prompts is None else prompts)
        points = [point for point in points if len(point.figure) == count]
    if not points:
        return None
    best, since = max(points, key=lambda point: point.mean), None
    level = LEVEL / (max(1, len(points) - 1) * of)
    for point in reversed(points[points.index(best) + 1 :]):
        fall = _Gains.of(best.figure, point.figure, prompts)
        rise = _Gains.of(point.trained, best.trained, prompts)
        if not (fall.beyond_chance(level, seed) and rise.beyond_chance(LEVEL, seed)):
            break
        since = point.step
    return None if since is None else Parting(figure, best.step, since, fall.prompts)


@attrs.frozen(eq=False)
class _Point:
    step: int
    figure: Sequence[float]
    trained: Sequence[float]

    @property
    def mean(self) -> float:
        known = [value for value in self.figure if not math.isnan(value)]
        return math.fsum(known) / len(known)


@attrs.frozen(eq=False)
class _Gains:
    values: Sequence[float]
    texts: Sequence[str]

    @classmethod
    def of(
        cls, after: Sequence[float], before: Sequence[float], prompts: Sequence[str] | None
    ) -> _Gains:
        texts = map(str, range(len(after))) if prompts is None else prompts
        differences = (new - old for new, old in zip(after, before, strict=True))
        known = [
            (each, text)
            for each, text in zip(differences, texts, strict=True)
            if not math.isnan(each)
        ]
        return cls([each for each, _ in known], [text for _, text in known])

    @property
    def prompts(self) -> int:
        return len(set(self.texts))

    def beyond_chance(self, level: float, seed: int) -> bool:
        if self.prompts < LEAST or not math.fsum(self.values) > 0:
            return False
        # Drawn flips give no p below one in their number.
        flips = max(9_999, round(2 / level))
        generator = torch.Generator().manual_seed(seed)
        p = sign_flip_p([self.values], prompts=[self.texts], generator=generator, flips=flips)
        return p <= level
