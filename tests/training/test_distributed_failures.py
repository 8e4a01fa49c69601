"""However a run of several processes ends, it ends on all of them, and is saved once."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest
import torch

from . import distributed_jobs as jobs
from .fakes import same
from .processes import Ended

SOON = 15
"""Seconds within which all have ended; a process alone needs a few to start."""


def ended(together, size: int, folder: Path, **acts: tuple[str, int]) -> Ended:
    """How a training ends in which ranks, called `r1` and so on, do something."""
    began = time.monotonic()
    named = {name.removeprefix("r"): act for name, act in acts.items()}
    together.start(size, "ending", folder=str(folder), acts=named)
    found = together.finish()
    assert time.monotonic() - began < SOON
    assert 0 not in found.codes
    return found


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir()) if folder.exists() else []


@pytest.mark.parametrize("size", [2, 4])
def test_a_failure_ends_all_and_the_first_saves(together, tmp_path: Path, size: int) -> None:
    found = ended(together, size, tmp_path, r1=("fail", 3))
    assert "no score on 1" in found.told[1].splitlines()[0]
    assert "saved" not in found.told[1]
    first, note = found.told[0].splitlines()[:2]
    assert first.startswith("RankEndedError: rank 1 failed; its own message says why")
    place = f"{tmp_path}/stopped-000002"
    assert note == f"the parameters after step 2 are saved in {place}, from which --resume goes on"
    for told in found.told[2:]:
        assert told.startswith("RankEndedError: rank 1 failed")
    assert names(tmp_path) == ["stopped-000002"]


def test_the_first_can_fail_too(together, tmp_path: Path) -> None:
    found = ended(together, 2, tmp_path, r0=("fail", 2))
    assert "no score on 0" in found.told[0].splitlines()[0]
    assert "stopped-000001" in found.told[0].splitlines()[1]
    assert found.told[1].startswith("RankEndedError: rank 0 failed")
    assert names(tmp_path) == ["stopped-000001"]


@pytest.mark.parametrize("size", [2, 4])
def test_a_killed_process_leaves_nobody_waiting(together, tmp_path: Path, size: int) -> None:
    found = ended(together, size, tmp_path, r1=("kill", 3))
    assert found.codes[1] == -signal.SIGKILL
    for told in (found.told[0], *found.told[2:]):
        assert told.startswith("RankEndedError: another process of the run ended without a message")
    assert names(tmp_path) == ["stopped-000002"]


def test_nor_does_the_first_where_it_is_killed(together, tmp_path: Path) -> None:
    found = ended(together, 2, tmp_path, r0=("kill", 3))
    assert found.codes == [-signal.SIGKILL, 1]
    assert found.told[1].startswith("RankEndedError: another process")
    assert names(tmp_path) == []


@pytest.mark.parametrize("size", [2, 4])
@pytest.mark.parametrize("who", ["r0", "r1", "all"])
def test_an_interrupt_is_one_of_all_and_saved_once(
    together, tmp_path: Path, size: int, who: str
) -> None:
    chosen = [f"r{rank}" for rank in range(size)] if who == "all" else [who]
    found = ended(together, size, tmp_path, **{name: ("interrupt", 3) for name in chosen})
    for told in found.told:
        assert told.startswith("KeyboardInterrupt: ")
    assert "the parameters after step 2 are saved in" in found.told[0]
    assert names(tmp_path) == ["interrupted-000002"]


def test_an_interrupt_waits_where_others_are_waited_for(together, tmp_path: Path) -> None:
    """One sleeps in its reward, the other waits for it: a signal to both ends both."""
    processes = together.start(2, "ending", folder=str(tmp_path), acts={"1": ("wait", 3)})
    time.sleep(3)
    began = time.monotonic()
    for process in processes:
        os.kill(process, signal.SIGINT)
    found = together.finish()
    assert time.monotonic() - began < SOON
    assert all(told.startswith("KeyboardInterrupt: ") for told in found.told)
    assert names(tmp_path) == ["interrupted-000002"]


def test_a_score_that_is_not_finite_is_told_by_the_first(together, tmp_path: Path) -> None:
    found = ended(together, 2, tmp_path, r1=("spoil", 2))
    told = found.told[0].splitlines()[0]
    assert told.startswith("NonFiniteError: step 2 was stopped before the optimizer: the rewards")
    assert "of 1 of 4 samples" in told and "last-good-000001" in told
    assert found.told[1].startswith("RankEndedError: rank 0 failed")
    assert names(tmp_path) == ["last-good-000001"]


def test_other_weights_are_refused(together) -> None:
    together.start(2, "differing")
    found = together.finish()
    assert found.codes == [1, 1]
    for told in found.told:
        assert told.startswith("RanksDifferError: rank 1 holds other weights than rank 0")


def test_no_room_for_a_gradient_ends_all_alike(together) -> None:
    together.start(2, "short_of_sums")
    found = together.finish()
    assert found.codes == [1, 1]
    for told in found.told:
        assert told.startswith("ExhaustedError: out of memory in the update of the parameters")
        assert "no room for a gradient" in told


def test_other_prompts_are_refused_before_an_update(together) -> None:
    together.start(2, "other_prompts")
    found = together.finish()
    assert found.codes == [1, 1]
    for told in found.told:
        assert told.startswith("RanksDifferError: rank 1 has drawn other prompts than rank 0 by ")


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_an_optimizer_that_draws_draws_alike(together, dropout: float) -> None:
    (first, _), (other, _) = together.run(2, "drawing", dropout=dropout)
    assert same(first, other)


@pytest.mark.parametrize("stage", ["samples", "pull", "decode"])
def test_what_is_too_much_for_one_is_made_smaller_on_all(together, stage: str) -> None:
    roomy = jobs.short(jobs.Ranks(), {})[0]
    for size, rank in ((2, 1), (2, 0), (4, 2)):
        found = together.run(size, "short", limits={str(rank): {stage: 1}})
        for state, told, _, most in found:
            assert most[stage] == max(8 // size, 1)
            for name, value in roomy.items():
                torch.testing.assert_close(state[name], value, rtol=1e-9, atol=1e-12)
            assert same(state, found[0][0])
            assert bool(told) == (told is found[0][1])
        assert f"{stage} 2 -> 1" in found[0][1][-1][2]
        # Only one was short, once for each halving.
        assert [len(failed) for _, _, failed, _ in found] == [
            (1 if size == 4 else 2) if each == rank else 0 for each in range(size)
        ]


def test_only_the_first_evaluates_and_all_end_with_it(together) -> None:
    values = [0.1, 0.5, 0.3, 0.2, 0.9]
    (first, other) = together.run(2, "evaluated", values=values)
    # After the third step there have been two evaluations without a rise.
    assert first[:3] == (3, 4, 4) and other[:3] == (3, 0, 0)
    assert same(first[3], other[3])
