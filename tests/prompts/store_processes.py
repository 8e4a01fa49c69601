"""A program for the tests: processes that fill one folder at once, and writers that are killed.

It forks, which a process must not do once it has threads; those of a test run have them.

    python store_processes.py together FOLDER
    python store_processes.py killed FOLDER
"""

from __future__ import annotations

import os
import signal
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import torch

from flowbp.prompts import FolderStore

SPACE = "a" * 64
TOGETHER = [f"prompt {i}" for i in range(30)]
KILLED = [f"prompt {i}" for i in range(10)]
TRIALS = 10


def row(prompt, size=50_000):
    """An embedding that its prompt decides."""
    source = torch.Generator().manual_seed(sum(prompt.encode()))
    tokens = torch.randn(size, 2, generator=source)
    return {"tokens": tokens.bfloat16(), "pooled": tokens[0].double(), "n": torch.tensor(7)}


def same(one, other):
    """Whether two embeddings are equal to the bit."""
    return one.keys() == other.keys() and all(
        one[name].dtype == other[name].dtype and torch.equal(one[name], other[name]) for name in one
    )


def fill(folder: Path) -> None:
    """Write what is not there, and read everything."""
    store = FolderStore(folder, SPACE)
    for prompt in TOGETHER:
        if store.read(prompt) is None:
            store.write(prompt, row(prompt))
        assert same(store.read(prompt), row(prompt)), prompt


def write_for_ever(folder: Path) -> None:
    """Write the same entries again and again."""
    store = FolderStore(folder, SPACE)
    while True:
        for prompt in KILLED:
            store.write(prompt, row(prompt))


def forked(work: Callable[[Path], None], folder: Path) -> int:
    """Start a process that does the work and leaves with 0."""
    child = os.fork()
    if child:
        return child
    work(folder)
    os._exit(0)


def together(folder: Path) -> None:
    """Two processes fill one folder at once."""
    children = [forked(fill, folder) for _ in range(2)]
    assert [os.waitpid(child, 0)[1] for child in children] == [0, 0]


def killed(folder: Path) -> None:
    """Writers are killed a few milliseconds after their first entry."""
    for trial in range(TRIALS):
        place = folder / str(trial)
        child = forked(write_for_ever, place)
        while not any(place.rglob("*.safetensors")):
            time.sleep(0.001)
        time.sleep(0.003 * trial)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
    # Only now, because reading starts threads.
    warnings.simplefilter("error")
    for trial in range(TRIALS):
        store = FolderStore(folder / str(trial), SPACE)
        for prompt in KILLED:
            found = store.read(prompt)
            assert found is None or same(found, row(prompt)), (trial, prompt)


if __name__ == "__main__":
    {"together": together, "killed": killed}[sys.argv[1]](Path(sys.argv[2]))
