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


def turns(texts: list[str], batch: int, rank: int, size: int) -> list[list[str]]:
    return [texts[start : start + batch] for start in range(0, len(texts), batch)][rank::size]


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize(("prompts", "batch"), [(7, 2), (5, 1), (3, 4), (8, 2)])
def test_each_scores_what_it_has_sampled(together, size: int, prompts: int, batch: int) -> None:
    expected, _ = jobs.scored(Ranks(), prompts, batch)
    found = together.run(size, "scored", prompts=prompts, batch=batch)
    # Bit for bit, as the batches are those of one process.
    assert list(expected) == ["reward", "accuracy", "spread", "dark", "pixels"]
    assert found[0][0] == expected and all(each is None for each, _ in found[1:])
    texts = [f"held out {number}" for number in range(prompts)]
    for rank, (_, by) in enumerate(found):
        own = turns(texts, batch, rank, size)
        assert by == ({name: own for name in ("reward", "judge", "spread")} if own else {})


@pytest.mark.parametrize("size", [2, 4])
def test_scales_are_measured_by_all(together, tmp_path: Path, size: int) -> None:
    expected, by = jobs.calibrated_together(Ranks(), str(tmp_path))
    (texts,) = [[text for batch in by["reward"] for text in batch]]
    (tmp_path / "calibration.json").unlink()
    (scales, _), *others = found = together.run(size, "calibrated_together", folder=str(tmp_path))
    assert scales == expected and all(each is None for each, _ in others)
    for rank, (_, mine) in enumerate(found):
        assert mine["reward"] == turns(texts, 2, rank, size)


WRONG = {
    "reward": "rank 1|raised KeyError: 'no verdict'",
    "judge": "rank 1|raised KeyError: 'no verdict'",
    "metric": "rank 1|the metric `mine` (",
    "names": "rank 0|returned the columns of 0 for one batch and of 1 for another",
    "lacking": "all|rank 1 evaluates by 'mine', and rank 0 by the reward alone; give every process",
}


@pytest.mark.parametrize("what", WRONG)
def test_what_goes_wrong_in_a_score_ends_all(together, what: str) -> None:
    together.start(2, "scored_otherwise", what=what)
    ended = together.finish()
    assert ended.codes == [1, 1]
    who, _, said = WRONG[what].partition("|")
    for rank, told in enumerate(ended.told):
        if who in ("all", f"rank {rank}"):
            assert said in told.splitlines()[0], told
        else:
            assert told.startswith(f"RankEndedError: {who} failed; its own message says why")


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
