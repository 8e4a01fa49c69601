"""Pictures that several processes sample are those of one, and so is what they score."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from flowbp.training import Ranks

from . import distributed_jobs as jobs
from .test_distributed import worst


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize(("prompts", "batch"), [(7, 2), (5, 1), (3, 4), (8, 2)])
def test_batches_are_sampled_in_turns(together, size: int, prompts: int, batch: int) -> None:
    expected, _ = jobs.sampled(Ranks(), prompts, batch)
    (found, _), *others = whole = together.run(size, "sampled", prompts=prompts, batch=batch)
    assert [chosen for chosen, _ in found] == [chosen for chosen, _ in expected]
    for (_, mine), (_, pictures) in zip(found, expected, strict=True):
        assert torch.equal(mine, pictures)
    assert all(each is None for each, _ in others)
    samples = [count for _, count in whole]
    # In the last turn some sample what is not needed.
    assert prompts <= sum(samples) and max(samples) <= batch * -(-len(expected) // size)


@pytest.mark.parametrize("size", [2, 4])
def test_evaluations_inside_a_run_are_those_of_one(together, tmp_path: Path, size: int) -> None:
    rows, shown, state = jobs.measured(Ranks(), str(tmp_path / "one"), 4)
    assert [*rows] == [*shown] == [0, 2, 4] and rows[4]["pixels"] > 0
    found = together.run(size, "measured", folder=str(tmp_path / "several"), steps=4)
    for mine, pictures, parameters in found[1:]:
        assert not mine and not pictures and worst(parameters, state) <= 1e-12
    mine, pictures, parameters = found[0]
    assert worst(parameters, state) <= 1e-12 and mine.keys() == rows.keys()
    for step, means in rows.items():
        assert mine[step] == pytest.approx(means, rel=1e-9)
        torch.testing.assert_close(pictures[step], shown[step], rtol=1e-9, atol=1e-9)
    # Before training there is nothing to differ.
    assert mine[0] == rows[0] and torch.equal(pictures[0], shown[0])


def test_metrics_of_sets_go_on_with_the_first_pictures(together, tmp_path: Path) -> None:
    whole = together.run(2, "measured", folder=str(tmp_path / "whole"), steps=4)
    together.run(2, "measured", folder=str(tmp_path / "half"), steps=2)
    final = str(tmp_path / "half" / "final")
    found = together.run(2, "measured", folder=str(tmp_path / "rest"), steps=4, resume=final)
    assert found[0][0] == whole[0][0]
