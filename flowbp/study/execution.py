"""A study from its settings: measure what is missing, put it together, write it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import attrs

from flowbp.cli.console import listing
from flowbp.cli.progress import report_progress
from flowbp.evaluation import counted
from flowbp.files import write_atomically
from flowbp.settings.folder import locked
from flowbp.significant_digits import written as number
from flowbp.study.cells import Cell, read_cell, write_cell
from flowbp.study.cost import CostWeights
from flowbp.study.loader import CONFIGURATION, written
from flowbp.study.page import render
from flowbp.study.results import Results, results_of
from flowbp.study.runs import cell_path, measured_weights, weights_path
from flowbp.study.settings import Study
from flowbp.study.tables import methods_csv, results_json, runs_csv, study_table
from flowbp.study.workers import measure_all

_FILES = {
    "report.html": "the table, curves, what fell and when",
    "methods.csv": "a row for each method",
    "runs.csv": "a row for each evaluation of each run",
    "results.json": "all of it",
    "cells": "what was measured, a file for each draw and run",
}


def execute(study: Study) -> Results:
    """Measure what is missing of a study, and write its results into its folder."""
    folder = study.settings.folder
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder):
        write_atomically(folder / CONFIGURATION, written(study))
        weights = _weights(study)
        cells = study.cells(weights)
        print(overview(study, weights), flush=True)
        left = missing(study, cells)
        if left:
            done: list[Cell] = []
            with report_progress("study", len(left), unit="cell") as progress:

                def take_note(cell: Cell) -> None:
                    done.append(cell)
                    progress(len(done), len(left))

                measure_all(study, left, take_note)
        results = results_of(study, weights, {cell: _found(study, cell) for cell in cells})
        _write(folder, study, results)
    print(f"\n{study_table(results)}\n\nwritten to {folder}\n{listing(folder, _FILES)}")
    return results


def check(study: Study) -> None:
    """Print what a study would do, and do nothing of it."""
    print(overview(study, known_weights(study)), "checked; nothing was measured", sep="\n")


def overview(study: Study, weights: CostWeights | None) -> str:
    """What a study measures: methods, steps at equal cost, cells and how many are left."""
    settings, training, ascent = study.settings, study.settings.training, study.settings.ascent
    cells = study.cells(weights)
    lines = {"methods": ", ".join(settings.methods)}
    if ascent is not None:
        lines["ascent"] = (
            f"{counted(ascent.draws, 'draw')} of {ascent.batches} batches of {ascent.batch}, "
            f"{counted(len(ascent.lengths), 'length')}, directions {', '.join(ascent.directions)}"
        )
    if training is not None:
        rates = ", ".join(f"{rate:g}" for rate in study.rates)
        lines["training"] = f"rates {rates}; {counted(len(training.seeds), 'seed')}"
        lines["cost"] = "measured when the study begins"
    if training is not None and weights is not None:
        costs = (f"{name} {number(each)}" for name, each in attrs.asdict(weights).items())
        steps = (f"{label} {study.steps_of(label, weights)}" for label in settings.methods)
        lines |= {"cost": ", ".join(costs), "steps": ", ".join(steps)}
    more = " and the runs" if training is not None and weights is None else ""
    lines["cells"] = f"{len(cells)}{more}, of which {len(missing(study, cells))} are left"
    lines |= {"workers": str(settings.workers), "folder": str(settings.folder)}
    return "\n".join(f"  {name:<10}{text}" for name, text in lines.items())


def missing(study: Study, cells: Sequence[Cell]) -> list[Cell]:
    """The cells that are not measured yet."""
    return [cell for cell in cells if not cell_path(study, cell).exists()]


def _found(study: Study, cell: Cell) -> dict[str, object]:
    found = read_cell(cell_path(study, cell))
    assert found is not None
    return found


def known_weights(study: Study) -> CostWeights | None:
    """The weights of cost, if they are given or were measured."""
    training = study.settings.training
    if training is None or training.weights is not None:
        return training.weights if training is not None else None
    found = read_cell(weights_path(study))
    return None if found is None else CostWeights(**found)


def _weights(study: Study) -> CostWeights | None:
    found = known_weights(study)
    if found is None and study.settings.training is not None:
        found = measured_weights(study)
        write_cell(weights_path(study), attrs.asdict(found))
    return found


def _write(folder: Path, study: Study, results: Results) -> None:
    write_atomically(folder / "results.json", results_json(results))
    write_atomically(folder / "methods.csv", methods_csv(results))
    if results.metrics:
        write_atomically(folder / "runs.csv", runs_csv(results))
    title = f"{folder.name}: {counted(len(results.methods), 'method')}"
    write_atomically(
        folder / "report.html", render(results, title=title, configuration=written(study))
    )
