"""A run of several processes goes on from its checkpoints, also in another number of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from flowbp.training import Ranks

from . import distributed_jobs as jobs
from .fakes import same
from .test_distributed import worst

CASE = {"guidance": "detached", "anchor": 0.1, "clip": 1.0}
BATCHINGS = {1: [8, 1, {}], 2: [2, 2, {}], 4: [1, 2, {}]}


@pytest.mark.parametrize("dropout", [None, 0.3])
@pytest.mark.parametrize("method", ["DRaFTLV", "Bridge"])
def test_it_goes_on_bit_for_bit(together, tmp_path: Path, method: str, dropout: float) -> None:
    named = CASE | {"method": method, "batching": BATCHINGS[2]}
    if dropout is not None:
        named = named | {"dropout": dropout, "anchor": None}
    whole = together.run(2, "train", steps=5, **named)
    together.run(2, "train", steps=3, folder=str(tmp_path), **named)
    found = together.run(2, "train", steps=5, resume=str(tmp_path / "final"), **named)
    assert found[0][1] == whole[0][1][3:]
    for (_, _, state, _), (_, _, expected, _) in zip(found, whole, strict=True):
        assert same(state, expected)


@pytest.mark.parametrize(("before", "after"), [(2, 1), (1, 4), (4, 2)])
def test_it_goes_on_in_another_number(together, tmp_path: Path, before: int, after: int) -> None:
    def train(size: int, **more: object):
        named = CASE | {"method": "Bridge", "batching": BATCHINGS[size]} | more
        return together.run(size, "train", **named) if size > 1 else [jobs.train(Ranks(), **named)]

    whole = train(1, steps=5)[0]
    train(before, steps=2, folder=str(tmp_path), every=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["final", "step-000001"]
    for _, _, state, _ in train(after, steps=5, resume=str(tmp_path / "final")):
        assert worst(state, whole[2]) <= 1e-12


def test_another_batch_is_refused(together, tmp_path: Path) -> None:
    named = CASE | {"method": "Bridge", "batching": BATCHINGS[2]}
    together.run(2, "train", steps=2, folder=str(tmp_path), **named)
    together.start(4, "train", steps=4, resume=str(tmp_path / "final"), **named)
    for told in together.finish().told:
        assert "was trained on batches of 8 samples, and this run has 16" in told.splitlines()[0]
