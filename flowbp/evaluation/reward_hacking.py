"""Signs of reward hacking: the reward rises while a held-out metric gets worse."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import torch

from flowbp.evaluation.charts import metrics_besides
from flowbp.evaluation.statistics import LEAST, LEVEL, sign_flip_p
from flowbp.evaluation.tables import Line

_Each = Mapping[str, Sequence[float]]


@attrs.frozen
class Divergence:
    """A held-out metric that got worse while the reward kept rising."""

    metric: str
    best: int
    since: int
    prompts: int


def find_divergence(
    rows: Sequence[Mapping[str, Any]],
    each: Sequence[_Each],
    metric: str,
    trained: str,
    *,
    prompts: Sequence[str] | None = None,
    among: int = 1,
    sign: int = 1,
    seed: int = 0,
    look_back: int | None = None,
) -> Divergence | None:
    """Find since which step a metric and the reward diverge, if they still do at the last.

    At an evaluation they diverge if, prompt by prompt, the metric is below its best and the reward
    above what it was then, both by more than chance: sign-flip tests of the differences, the
    reward's at `LEVEL`. The best of many evaluations is partly luck, so the metric is tested at
    `LEVEL` divided by the number of evaluations that could have been the best, and by `among`, the
    number of metrics that are tested. With `look_back` only the last so many are looked at.
    """
    if sign not in (-1, 1):
        raise ValueError(
            f"`sign` must be 1 (more is better) or -1 (less is better), got {sign!r}; where "
            "neither is better, nothing diverges"
        )
    points = [
        _Point(row["step"], [sign * value for value in own[metric]], own[trained])
        for row, own in zip(rows, each, strict=True)
        if metric in own and trained in own
    ]
    if points and prompts is None:
        prompts = [str(number) for number in range(len(points[-1].metric))]
    points = [point for point in points if prompts and len(point.metric) == len(prompts)]
    if not points or prompts is None:
        return None
    best, since, fallen = max(points, key=lambda point: point.mean), None, 0
    level = LEVEL / (max(1, len(points) - 1) * among)
    for point in itertools.islice(reversed(points[points.index(best) + 1 :]), look_back):
        fall = _risen(best.metric, point.metric, prompts, level, seed)
        if not fall or not _risen(point.trained, best.trained, prompts, LEVEL, seed):
            break
        since, fallen = point.step, fall
    return None if since is None else Divergence(metric, best.step, since, fallen)


@attrs.frozen(eq=False)
class _Point:
    step: int
    metric: Sequence[float]
    trained: Sequence[float]

    @property
    def mean(self) -> float:
        known = [value for value in self.metric if not math.isnan(value)]
        return math.fsum(known) / len(known)


def _risen(
    after: Sequence[float], before: Sequence[float], texts: Sequence[str], level: float, seed: int
) -> int:
    """The number of prompts of a rise beyond chance; 0 where there is no such rise."""
    differences = [new - old for new, old in zip(after, before, strict=True)]
    known = [number for number, each in enumerate(differences) if not math.isnan(each)]
    rises, own = [differences[number] for number in known], [texts[number] for number in known]
    prompts = len(set(own))
    if prompts < LEAST or not math.fsum(rises) > 0:
        return 0
    # Drawn flips give no p below one in their number.
    flips = max(9_999, round(2 / level))
    generator = torch.Generator().manual_seed(seed)
    p = sign_flip_p([rises], prompts=[own], generator=generator, flips=flips)
    return prompts if p <= level else 0


def warnings_of(
    lines: Sequence[Line],
    held_out: Sequence[Mapping[str, Any]],
    trained: Mapping[str, Sequence[str]],
    *,
    each: Sequence[_Each] = (),
    prompts: Sequence[str] | None = None,
    signs: Mapping[str, int] | None = None,
    seed: int = 0,
) -> tuple[str, ...]:
    """Warn where the trained-on reward rose while a held-out metric got worse.

    Inside a run, by `divergences`; between the base and another model, by a significant gain of
    a column that this model was trained on beside a significant loss of another column.
    """
    if not trained:
        return ()
    signs = signs or {}
    apart = divergences(held_out, each, prompts, signs, seed) if each else []
    found = [in_words(one, signs) for one in apart]
    better = {(line.model, line.column) for line in lines if line.worth == "good"}
    for line in lines:
        own = trained.get(line.model, ())
        risen = [name for name in own if (line.model, name) in better]
        of_own = any(line.column == name or line.column.startswith(f"{name}.") for name in own)
        if risen and line.worth == "bad" and not of_own:
            found.append(
                f"{line.model}: {risen[0]}, which was trained on, is better, and {line.column} "
                f"is {line.verdict} by {line.written.gain.lstrip('+−')}"
                f"{' points' if line.unit.percent else ''}."
            )
    return tuple(found)


def divergences(
    held_out: Sequence[Mapping[str, Any]],
    each: Sequence[_Each],
    prompts: Sequence[str] | None = None,
    signs: Mapping[str, int] | None = None,
    seed: int = 0,
    *,
    look_back: int | None = None,
) -> list[Divergence]:
    """The metrics that diverge from the reward at the last of a run's evaluations."""
    signs = signs or {}
    names = [name for name in metrics_besides(held_out, "reward") if signs.get(name) != 0]
    found = (
        find_divergence(
            held_out,
            each,
            name,
            "reward",
            prompts=prompts,
            among=len(names),
            sign=signs.get(name, 1),
            seed=seed,
            look_back=look_back,
        )
        for name in names
    )
    return [apart for apart in found if apart is not None]


def in_words(apart: Divergence, signs: Mapping[str, int]) -> str:
    """What a reader is told of a divergence."""
    fell = signs.get(apart.metric, 1) == 1
    worse = "fell" if fell else "got worse (rose, and less is better)"
    return (
        f"From step {apart.since} on the reward rose while {apart.metric} {worse}: it was best at "
        f"step {apart.best}, beyond chance on {apart.prompts} prompts. Later "
        "gains may exploit the reward's weaknesses instead of improving the pictures."
    )
