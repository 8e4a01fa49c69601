"""Which measure of single steps goes with the gain of training."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from flowbp.study.summary import AscentSummary

LEAST = 4
"""Methods below which a rank correlation says nothing."""


def measures(ascent: AscentSummary) -> dict[str, float]:
    """The numbers of single steps, by name; those that are not defined are left out."""
    found: dict[str, float | None] = {}
    for each in ascent.directions:
        found[f"{each.direction}: gain on others"] = each.gain.mean
        found[f"{each.direction}: gain on its own"] = each.own.mean
        found[f"{each.direction}: survival"] = each.survival
    found |= {
        "signal share": ascent.share.mean,
        "agreement": ascent.agreement.mean,
        "spread of norms": ascent.norm_spread,
        "cosine to exact": ascent.cosine.mean if ascent.cosine else None,
        "norm to exact": ascent.norm_ratio,
    }
    return {name: each for name, each in found.items() if each is not None}


def predictors(ascents: Sequence[AscentSummary], gains: Sequence[float]) -> dict[str, float]:
    """Spearman's rank correlation of each measure with training's gains, the largest first."""
    rows = [measures(each) for each in ascents]
    if len(rows) < LEAST:
        return {}
    names = [name for name in rows[0] if all(name in row for row in rows)]
    found = {name: spearman([row[name] for row in rows], gains) for name in names}
    return dict(sorted(found.items(), key=lambda item: -abs(item[1])))


def spearman(left: Sequence[float], right: Sequence[float]) -> float:
    """Spearman's rank correlation; equal numbers share their ranks, 0 where all are equal."""
    ranks = torch.stack([_ranks(left), _ranks(right)])
    centred = ranks - ranks.mean(1, keepdim=True)
    size = centred.norm(dim=1).prod()
    return float(centred.prod(0).sum() / size) if size > 0 else 0.0


def _ranks(values: Sequence[float]) -> Tensor:
    found = torch.tensor(values, dtype=torch.float64)
    return (found[:, None] > found).sum(1) + (found[:, None] == found).sum(1).double() / 2
