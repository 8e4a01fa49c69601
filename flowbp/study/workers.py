"""Cells measured in this process, or in several at once."""

from __future__ import annotations

import multiprocessing
import signal
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import Any

import attrs
import torch

from flowbp.cli.console import quiet
from flowbp.component_errors import ComponentError, foreign_frames
from flowbp.memory_errors import is_out_of_memory
from flowbp.settings.device import chosen_device
from flowbp.study.cells import Cell, write_cell
from flowbp.study.loader import CONFIGURATION, load
from flowbp.study.runs import cell_path, run_cell
from flowbp.study.settings import Study

Done = Callable[[Cell], object]
"""Told of a cell that is measured and kept."""


class WorkerError(RuntimeError):
    """A cell could not be measured; the message says which, and why."""


def measure_all(study: Study, cells: Sequence[Cell], done: Done) -> None:
    """Measure cells, each whole or not at all; `workers` of them at once.

    Raises:
        WorkerError: a worker stopped; the cells that were done are kept.
    """
    if study.settings.workers == 1:
        for cell in cells:
            write_cell(cell_path(study, cell), run_cell(study, cell))
            done(cell)
        return
    left, workers = list(reversed(cells)), list[_Worker]()
    try:
        for number in range(min(study.settings.workers, len(cells))):
            workers.append(_Worker.started(study.settings.folder, number))
            workers[-1].give(left.pop())
        busy: dict[Any, _Worker] = {worker.connection: worker for worker in workers}
        while busy:
            for connection in wait(list(busy)):
                worker = busy[connection]
                done(worker.taken())
                if left:
                    worker.give(left.pop())
                else:
                    del busy[connection]
    finally:
        for worker in workers:
            worker.stop()


@attrs.define(eq=False)
class _Worker:
    process: Any
    connection: Connection
    cell: Cell | None = None

    @classmethod
    def started(cls, folder: Path, number: int) -> _Worker:
        # A fork would share what CUDA cannot.
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs, folder, number), daemon=True)
        process.start()
        # So that its end is read of here.
        theirs.close()
        return cls(process, ours)

    def give(self, cell: Cell) -> None:
        self.cell = cell
        # Of a process that is gone `taken` says so.
        with suppress(ConnectionError):
            self.connection.send(cell)

    def taken(self) -> Cell:
        assert self.cell is not None
        try:
            failure = self.connection.recv()
        except (EOFError, ConnectionError):
            self.process.join()
            failure = (
                f"its process ended with exit code {self.process.exitcode}; if memory ran out, "
                "lower `workers`"
            )
        if failure:
            raise WorkerError(f"{self.cell.label} stopped: {failure}\nwhat was done is kept")
        return self.cell

    def stop(self) -> None:
        self.connection.close()
        self.process.terminate()
        self.process.join()


def _serve(connection: Connection, folder: Path, number: int) -> None:
    # Ctrl-C reaches all processes of a terminal; the first one ends the others.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    study, parent = None, multiprocessing.parent_process()
    with quiet():
        while True:
            try:
                cell = connection.recv()
            except (EOFError, ConnectionError):
                return
            failure = ""
            try:
                if study is None:
                    study = load([str(folder / CONFIGURATION)]).settings
                    take_gpu(chosen_device(study.run.run.device), number)
                found = run_cell(study, cell)
                # Another may go on with the study of a process that was killed.
                if parent is None or not parent.is_alive():
                    return
                write_cell(cell_path(study, cell), found)
            # Whatever it is, the first process reports it and ends.
            except Exception as error:
                failure = _in_words(error)
            with suppress(ConnectionError):
                connection.send(failure)
            if failure:
                return


def take_gpu(device: torch.device, number: int) -> None:
    """Where a run may take any GPU, make one of them that of this process; evenly by number."""
    if device == torch.device("cuda"):
        torch.cuda.set_device(number % torch.cuda.device_count())


def _in_words(error: Exception) -> str:
    cure = ["lower `workers` or run.batching.samples"] if is_out_of_memory(error) else []
    known = cure or isinstance(error, ComponentError | OSError)
    frames = foreign_frames(error) if known else [traceback.format_exc()]
    return "\n".join([str(error), *getattr(error, "__notes__", ()), *cure, *frames])
