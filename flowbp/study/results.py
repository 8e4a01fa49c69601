"""The results of a study: from its cells to what is said of each method."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import attrs
import torch

from flowbp.study.agreement import Agreement
from flowbp.study.ascent import Ascent, Gains
from flowbp.study.cells import FAILURE, Cell
from flowbp.study.comparison import Standing, standings
from flowbp.study.cost import CostWeights
from flowbp.study.predictors import predictors
from flowbp.study.settings import Study
from flowbp.study.summary import AscentSummary, summarized
from flowbp.study.training_results import REWARD, RateResult, Sides, best_rate, run_result

Found = Mapping[Cell, Mapping[str, Any]]
"""What the cells hold."""


@attrs.frozen(kw_only=True)
class MethodResult:
    """What is said of a method."""

    label: str
    ascent: AscentSummary | None = None
    # What was not finite, by draw.
    ascent_failures: tuple[str, ...] = ()
    steps: int | None = None
    step_cost: float = 0.0
    # Ascending, and the place of the best; None where all diverged.
    rates: tuple[RateResult, ...] = ()
    best: int | None = None
    # By metric, on the prompts that judge.
    standings: Mapping[str, Standing] = attrs.field(factory=dict)

    @property
    def chosen(self) -> RateResult | None:
        """The runs at the best rate."""
        return None if self.best is None else self.rates[self.best]

    @property
    def at_edge(self) -> bool:
        """Whether the best rate is at an end of those tried, so that a better may lie beyond."""
        return self.best in (0, len(self.rates) - 1) and len(self.rates) > 1


@attrs.frozen(kw_only=True)
class Results:
    """The results of a study; `before` has the metrics of the model before training."""

    methods: tuple[MethodResult, ...]
    before: Mapping[str, float] = attrs.field(factory=dict)
    predictors: Mapping[str, float] = attrs.field(factory=dict)
    weights: CostWeights | None = None

    @property
    def metrics(self) -> list[str]:
        """Those of the table: the parts of a reward are in the files alone."""
        return [name for name in self.before if not name.startswith("parts.")]


def results_of(study: Study, weights: CostWeights | None, found: Found) -> Results:
    """Put together what the cells of a study found, all of which must be there."""
    seed, training = study.settings.seed, study.settings.training
    methods = [_of_ascent(label, found, seed) for label in study.settings.methods]
    if training is None or weights is None:
        return Results(methods=tuple(methods))
    sides = Sides.of(study)
    methods = [_of_training(study, weights, each, found, sides) for each in methods]
    runs = [run for each in methods for rate in each.rates for run in rate.runs]
    before = {name: values[0] for name, values in runs[0].judging.items()}
    methods = _standing(methods, list(before), sides, seed=seed)
    judged = [m for m in methods if m.ascent is not None and REWARD in m.standings]
    return Results(
        methods=tuple(methods),
        before=before,
        predictors=predictors(
            [each.ascent for each in judged if each.ascent is not None],
            [each.standings[REWARD].gain.mean for each in judged],
        ),
        weights=weights,
    )


def _of_ascent(label: str, found: Found, seed: int) -> MethodResult:
    own = [each for cell, each in found.items() if (cell.part, cell.method) == ("ascent", label)]
    draws = [ascent_from(each) for each in own if FAILURE not in each]
    return MethodResult(
        label=label,
        ascent=summarized(draws, seed=seed) if draws else None,
        ascent_failures=tuple(each[FAILURE] for each in own if FAILURE in each),
    )


def ascent_from(tree: Mapping[str, Any]) -> Ascent:
    """What `attrs.asdict` made of an ascent, perhaps by way of JSON."""
    agreement = {**tree["agreement"], "norms": tuple(tree["agreement"]["norms"])}
    gains = {
        name: Gains(same=tuple(each["same"]), others=tuple(each["others"]))
        for name, each in tree["gains"].items()
    }
    read = {"agreement": Agreement(**agreement), "gains": gains}
    lists = {name: tuple(tree[name]) for name in ("lengths", "before")}
    return Ascent(**{**tree, **lists, **read})


def _of_training(
    study: Study, weights: CostWeights, method: MethodResult, found: Found, sides: Sides
) -> MethodResult:
    training = study.settings.training
    assert training is not None
    own = {
        (cell.rate, cell.number): each
        for cell, each in found.items()
        if (cell.part, cell.method) == ("training", method.label)
    }
    rates = tuple(
        RateResult(
            rate=rate,
            runs=tuple(run_result(own[rate, seed], seed, sides) for seed in training.seeds),
        )
        for rate in study.rates
    )
    return attrs.evolve(
        method,
        steps=study.steps_of(method.label, weights),
        step_cost=study.cost_of_step(method.label, weights),
        rates=rates,
        best=best_rate(rates),
    )


def _standing(
    methods: Sequence[MethodResult], metrics: Sequence[str], sides: Sides, *, seed: int
) -> list[MethodResult]:
    chosen = {each.label: each.chosen for each in methods if each.chosen is not None}
    found: dict[str, dict[str, Standing]] = {each.label: {} for each in methods}
    for metric in metrics if chosen else ():
        gains = {
            label: torch.tensor([run.gains[metric] for run in rate.runs], dtype=torch.float64)
            for label, rate in chosen.items()
        }
        known = ~torch.stack([each.isnan().any(0) for each in gains.values()]).any(0)
        texts = [t for t, each in zip(sides.judging_texts, known.tolist(), strict=True) if each]
        if texts:
            judged = {label: each[:, known] for label, each in gains.items()}
            for label, standing in standings(judged, texts, seed=seed).items():
                found[label][metric] = standing
    return [attrs.evolve(each, standings=found[each.label]) for each in methods]
