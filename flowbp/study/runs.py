"""What a cell measures: a draw of ascent, or a training run with its evaluations."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs
import torch

import flowbp
from flowbp.settings import RunContainer, decisive
from flowbp.study.ascent import GradientError, measure_ascent
from flowbp.study.cells import FAILURE, Cell, kept_path
from flowbp.study.cost import CostWeights, measure_weights
from flowbp.study.settings import Study
from flowbp.training import History, NonFiniteError, Observer, Portions, Trainer, generator
from flowbp.training.prompts import drawn

# Of `run` the seed is left, from which an adapter is initialized.
_OF_ASCENT = (
    "flowbp",
    "cell",
    "run",
    "backbone",
    "tuning",
    "reward",
    "prompts",
    "method",
    "loss",
    "sampling",
    "batching",
)
_OF_COST = ("backbone", "tuning", "reward", "sampling", "batching")


def cell_facts(study: Study, cell: Cell) -> Mapping[str, Any]:
    """All that a cell's numbers depend on."""
    facts: dict[str, Any] = dict(decisive(study.run_of(cell)))
    facts |= {"flowbp": flowbp.__version__, "cell": attrs.asdict(cell)}
    if cell.part == "training":
        assert cell.steps is not None
        return facts | {"every": study.every(cell.steps)}
    assert study.settings.ascent is not None
    measured = {k: v for k, v in attrs.asdict(study.settings.ascent).items() if k != "draws"}
    own = {key: value for key, value in facts.items() if key.partition(".")[0] in _OF_ASCENT}
    return own | {"ascent": measured, "seed": study.settings.seed}


def cell_path(study: Study, cell: Cell) -> Path:
    """Where a cell is kept."""
    return kept_path(study.settings.folder, cell.label, cell_facts(study, cell))


def weights_path(study: Study) -> Path:
    """Where the measured weights of cost are kept."""
    facts = decisive(study.method_run(next(iter(study.settings.methods))))
    own = {key: value for key, value in facts.items() if key.partition(".")[0] in _OF_COST}
    return kept_path(study.settings.folder, "cost", own)


def run_cell(study: Study, cell: Cell) -> dict[str, Any]:
    """Measure a cell; one that diverges says so."""
    return (_ascent if cell.part == "ascent" else _training)(study, container_of(study, cell), cell)


def container_of(study: Study, cell: Cell) -> RunContainer:
    """The parts of a cell's run."""
    run = study.run_of(cell)
    threads = run.run.threads
    if threads is None and study.settings.workers > 1:
        threads = max(1, (os.cpu_count() or 1) // study.settings.workers)
    if threads is not None:
        torch.set_num_threads(threads)
    container = RunContainer(settings=run)
    container.model().release()
    return container


def _ascent(study: Study, container: RunContainer, cell: Cell) -> dict[str, Any]:
    assert study.settings.ascent is not None
    try:
        found = measure_ascent(
            container.step(),
            container.prompts(),
            study.settings.ascent,
            seed=study.settings.seed,
            draw=cell.number,
        )
    except GradientError as error:
        return {FAILURE: str(error)}
    return attrs.asdict(found)


class _Untold(Observer):
    """Takes what a run tells of its portions, which is no result of a study."""

    def portions(self, step: int, portions: Portions, message: str) -> None:
        return


def _training(study: Study, container: RunContainer, cell: Cell) -> dict[str, Any]:
    settings, history = container.settings(), History()
    trainer = Trainer(
        step=container.step(),
        prompts=container.prompts(),
        optimizer=container.optimizer(),
        steps=settings.training.steps,
        schedule=container.schedule(),
        clip=settings.training.clip,
        averaging=settings.training.averaging,
        seed=settings.run.seed,
        observers=(history, _Untold()),
        held_out_evaluation=container.held_out_evaluation(),
    )
    failure = {}
    try:
        trainer.run()
    except NonFiniteError as error:
        failure = {FAILURE: str(error)}
    return {
        "evaluations": [
            {"step": row.step, "each": {name: list(each) for name, each in row.each.items()}}
            for row in history.held_out
        ],
        "signs": dict(history.held_out[0].signs) if history.held_out else {},
        "rewards": [row["reward"] for row in history.rows],
        "norms": [row["gradient_norm"] for row in history.rows],
        "seconds": sum(row["seconds"] for row in history.rows),
        **failure,
    }


def measured_weights(study: Study) -> CostWeights:
    """The weights of a step's cost, measured with the first method's run."""
    label = next(iter(study.settings.methods))
    container = container_of(study, Cell(part="ascent", method=label, number=0))
    step, source = container.step(), container.prompts()
    stream = iter(source.stream(generator(study.settings.seed, "cost")))
    return measure_weights(step, drawn(source, stream, step.batching.samples))
