"""The schema of a study's YAML, and the study that it makes together with a run's settings."""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from flowbp.core import Method, Surrogate
from flowbp.limits import COUNT, SEED, SEEDS, STEPS, THREADS, labels
from flowbp.settings import Settings
from flowbp.settings.schema import ObserverSettings, example_surrogate
from flowbp.settings.unloaded_model import rescales_guidance
from flowbp.study.ascent import AscentSettings
from flowbp.study.cells import Cell
from flowbp.study.cost import CostWeights, mean_cost, steps_at
from flowbp.training.optimization import at_rate
from flowbp.validators import integer, real

_DRAWS = 256
"""Of a method, whose mean cost is that of a step."""


def _rates(_: object, attribute: attrs.Attribute[Any], value: tuple[float, ...] | None) -> None:
    if value is None:
        return
    if not value or min(value) <= 0 or len(set(value)) < len(value):
        raise ValueError(
            f"`{attribute.name}` must be different numbers above 0, got {list(value)}; take some "
            "that are a factor of 2 or 3 apart, so that the best is not at an end"
        )


def _seeds(_: object, attribute: attrs.Attribute[Any], value: tuple[int, ...]) -> None:
    wrong = [seed for seed in value if not 0 <= seed <= SEED]
    if not value or wrong or len(set(value)) < len(value) or len(value) > SEEDS:
        raise ValueError(
            f"`{attribute.name}` must be 1 to {SEEDS} different numbers of at least 0, got "
            f"{list(value)}; five are enough to see what seeds do"
        )


def _some(_: object, attribute: attrs.Attribute[Any], value: Mapping[str, Any]) -> None:
    if not value:
        raise ValueError(
            f"`{attribute.name}` is empty; name one at least, such as sparse: {{name: sparse}}"
        )


@attrs.frozen(kw_only=True)
class TrainingRuns:
    """Training runs of every method, at several rates, from several seeds, at equal cost.

    Args:
        rates: learning rates that every method is tried at; each is judged at its own best. Null
            for an optimizer that finds its rate itself.
        seeds: of runs; the same for all methods.
        steps: optimizer steps of the first method; the others take as many as cost as much.
        weights: what a step's parts cost; measured in seconds once, when the study begins, if null.
        evaluations: of a run, at even intervals, besides the one before it.
        selection: share of the held-out prompts on which rates are chosen; methods are judged on
            the others.

    Raises:
        ValueError: a number is out of range, or stands twice.
    """

    rates: tuple[float, ...] | None = attrs.field(default=None, validator=_rates)
    seeds: tuple[int, ...] = attrs.field(default=(0, 1, 2), validator=_seeds)
    steps: int = attrs.field(default=100, validator=integer(1, STEPS))
    weights: CostWeights | None = None
    evaluations: int = attrs.field(default=5, validator=integer(1, COUNT))
    selection: float = attrs.field(default=0.5, validator=real(0, 1, above=True))


@attrs.frozen(kw_only=True)
class StudySettings:
    """A study, but for the run that it varies.

    Args:
        folder: everything goes here; the same command continues a study that stopped.
        methods: what is compared, by a label of your own.
        ascent: what is measured of single steps; null leaves it out.
        training: the runs that are compared; null leaves them out.
        seed: of draws and of the statistics.
        workers: processes at once, on the CPU or shared out among the GPUs.
    """

    folder: Path
    methods: Mapping[str, Method] = attrs.field(validator=[_some, labels()])
    ascent: AscentSettings | None = None
    training: TrainingRuns | None = None
    seed: int = attrs.field(default=0, validator=integer(0, SEED))
    workers: int = attrs.field(default=1, validator=integer(1, THREADS))

    def __attrs_post_init__(self) -> None:
        """Refuse what would do nothing, or be ignored."""
        if self.ascent is None and self.training is None:
            raise ValueError("`training` is null, and so is `ascent`: give one of them or both")


@attrs.frozen(eq=False)
class Study:
    """The settings of a study together with those of the run that it varies."""

    settings: StudySettings
    run: Settings

    def method_run(self, label: str) -> Settings:
        """The run with one of the methods."""
        return attrs.evolve(self.run, method=self.settings.methods[label])

    def run_of(self, cell: Cell) -> Settings:
        """The settings that a cell runs with: nothing is saved or observed but its results."""
        run, changes = self.method_run(cell.method), dict[str, Any]()
        changes["run"] = attrs.evolve(run.run, folder=self.settings.folder)
        if cell.rate is not None and cell.steps is not None and run.evaluation is not None:
            changes = {
                "run": attrs.evolve(changes["run"], seed=cell.number),
                "optimizer": at_rate(run.optimizer, cell.rate),
                "training": attrs.evolve(run.training, steps=cell.steps),
                "evaluation": attrs.evolve(run.evaluation, every=self.every(cell.steps)),
            }
        quiet = ObserverSettings(json_lines=False, tensorboard=False)
        return attrs.evolve(run, samples=None, early_stop=None, observers=quiet, **changes)

    @property
    def rates(self) -> tuple[float, ...]:
        """The rates of the runs, rising: the optimizer's own where it finds it itself."""
        training = self.settings.training
        given = training.rates if training is not None else None
        return tuple(sorted(given or (self.run.optimizer.learning_rate,)))

    def every(self, steps: int) -> int:
        """Steps from one evaluation of a run to the next."""
        assert self.settings.training is not None
        return -(-steps // self.settings.training.evaluations)

    def cost_of_step(self, label: str, weights: CostWeights) -> float:
        """The mean cost of a method's optimizer step."""
        run = self.run
        return run.batching.total() * mean_cost(
            _surrogates(self, label),
            run.sampling,
            weights,
            anchored=run.anchor is not None,
            rescaled=rescales_guidance(run.backbone),
        )

    def steps_of(self, label: str, weights: CostWeights) -> int:
        """How many steps of a method cost as much as those of the first method."""
        assert self.settings.training is not None
        first = next(iter(self.settings.methods))
        budget = self.settings.training.steps * self.cost_of_step(first, weights)
        return steps_at(budget, self.cost_of_step(label, weights))

    def cells(self, weights: CostWeights | None) -> list[Cell]:
        """All that is to be measured; the runs of training need the weights of their cost."""
        ascent, training = self.settings.ascent, self.settings.training
        found = [
            Cell(part="ascent", method=label, number=draw)
            for draw in range(ascent.draws if ascent else 0)
            for label in self.settings.methods
        ]
        if training is None or weights is None:
            return found
        steps = {label: self.steps_of(label, weights) for label in self.settings.methods}
        return found + [
            Cell(part="training", method=label, number=seed, rate=rate, steps=steps[label])
            for seed in training.seeds
            for label in self.settings.methods
            for rate in self.rates
        ]


@functools.cache
def _surrogates(study: Study, label: str) -> Sequence[Surrogate]:
    return [example_surrogate(study.method_run(label), seed) for seed in range(_DRAWS)]
