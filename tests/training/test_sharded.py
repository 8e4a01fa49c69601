"""A model that processes share is trained as one that each has."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from flowbp.training import CheckpointError, Ranks

from . import sharded_jobs as jobs
from .fakes import saved
from .test_distributed import worst

JOB = "sharded_jobs."
CURE = "set `pull` and `decode` of the batching and `gradient_checkpointing` of the backbone"


def agree(found: list, expected: tuple, tolerance: float = 1e-12) -> None:
    rows, state, shown = expected
    for _, parameters, _ in found:
        assert worst(parameters, state) <= tolerance
    mine, _, pictures = found[0]
    assert len(mine) == len(rows)
    for one, row in zip(mine, rows, strict=True):
        for name, value in row.items():
            wanted = value if value is None else pytest.approx(value, rel=1e-5, abs=1e-12)
            assert one[name] == wanted, name
    for step, images in shown.items():
        torch.testing.assert_close(pictures[step], images, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("processes", "size", "method"),
    [
        *((2, 2, each) for each in ("ReFL", "DRaFTLV", "Bridge", "Lagrange", "exact")),
        (4, 4, "Bridge"),
        (4, 2, "DRaFTLV"),
    ],
)
def test_training_is_that_of_one_process(together, processes: int, size: int, method: str) -> None:
    named = {"method": method, "size": size}
    agree(together.run(processes, JOB + "train", **named), jobs.train(Ranks(), method))


@pytest.mark.parametrize(("processes", "method"), [(2, "Bridge"), (4, "DRaFTLV")])
def test_so_is_one_that_is_gathered_at_every_call(together, processes: int, method: str) -> None:
    named = {"method": method, "size": 2, "keep": False}
    agree(together.run(processes, JOB + "train", **named), jobs.train(Ranks(), method))


@pytest.mark.parametrize("keep", [True, False])
def test_blocks_stay_compiled(together, keep: bool) -> None:
    named = {"method": "Bridge", "size": 2, "keep": keep, "compiled": True, "anchor": None}
    agree(together.run(2, JOB + "train", **named), jobs.train(Ranks(), "Bridge", anchor=None))


@pytest.mark.parametrize(("method", "pull"), [("ReFL", 4), ("Bridge", 1), ("exact", 2)])
def test_parameters_are_gathered_and_gradients_summed_once_a_step(
    together, method: str, pull: int
) -> None:
    for counts in together.run(2, JOB + "collectives", method=method, pull=pull):
        assert counts["_allgather_base_"] == 2 * jobs.UNITS
        assert counts["_reduce_scatter_base_"] == 2 * jobs.UNITS


@pytest.mark.parametrize("keep", [True, False])
def test_hooks_rest_while_all_is_gathered_and_nothing_keeps_a_model_alive(
    together, keep: bool
) -> None:
    for well, (before, within, after) in together.run(2, JOB + "hooks_within", keep=keep):
        assert well and before == after and len(before) == 2 * jobs.UNITS + 2
        assert len(within) == (2 if keep else len(before))


@pytest.mark.parametrize("stage", ["samples", "pull", "decode"])
def test_what_is_too_much_for_one_is_made_smaller_on_all(together, stage: str) -> None:
    roomy = jobs.short(Ranks(), {})[0]
    size, rank = (4, 2) if stage == "pull" else (2, 1)
    found = together.run(size, JOB + "short", limits={str(rank): {stage: 1}})
    for state, _, most in found:
        assert worst(state, roomy) <= 1e-9 and most[stage] == max(8 // size, 1)
    assert [bool(failed) for _, failed, _ in found] == [each == rank for each in range(size)]


@pytest.mark.parametrize(
    ("wish", "sizes", "chosen"),
    [
        ("auto", {}, "pull 1, decode 1, gradient checkpointing on"),
        (False, {"decode": 3}, "pull 1, decode 3, gradient checkpointing off"),
        (None, {"pull": 2}, "pull 2, decode 1"),
        (True, {"pull": 2, "decode": 3}, ""),
    ],
)
def test_the_smallest_portions_are_told(together, wish, sizes: dict, chosen: str) -> None:
    found = together.run(2, JOB + "portions", checkpointing=wish, sizes=sizes)
    for _, most, on, _ in found:
        assert (most["pull"], most["decode"]) == (sizes.get("pull", 1), sizes.get("decode", 1))
        assert on is (wish in (True, "auto"))
    assert found[1][0] == []
    if not chosen:
        assert found[0][0] == []
        return
    ((step, portions, told),) = found[0][0]
    assert step == 1 and portions == chosen
    assert told.startswith(f"{chosen}: what takes least memory, as none is measured here")
    assert told.endswith(CURE)


# A pull of n samples takes 1 + 5 n GiB, a tenth of it with checkpointing; decoding 10 n.
@pytest.mark.parametrize(
    ("rooms", "wish", "sizes", "compiled", "chosen"),
    [
        ([100, 41], None, {}, False, "pull 4, decode 2"),
        ([41, 100], None, {}, True, "pull 4, decode 2"),
        ([100, 100], False, {}, True, "pull 8, decode 4, gradient checkpointing off"),
        ([41, 41, 20, 100], "auto", {}, False, "pull 8, decode 1, gradient checkpointing on"),
        (
            [41, 20],
            "auto",
            {"pull": 2, "decode": 3},
            False,
            "pull 2, decode 3, gradient checkpointing on",
        ),
        ([1, 100], None, {}, False, "pull 1, decode 1"),
    ],
)
def test_portions_that_fit_everywhere_are_found_together(
    together, rooms: list[int], wish: object, sizes: dict, compiled: bool, chosen: str
) -> None:
    named = {"checkpointing": wish, "sizes": sizes, "rooms": rooms, "compiled": compiled}
    found = together.run(len(rooms), JOB + "portions", **named)
    ((step, portions, told),) = found[0][0]
    assert step == 1 and portions == chosen
    assert told.startswith(f"{chosen}: ") and told.endswith(CURE)
    assert ("GiB free" in told) == (len(sizes) < 2)
    # All have made the same calls.
    assert all(each[3] == found[0][3] for each in found)
    assert all(each[0] == [] for each in found[1:])


def test_in_portions_that_were_found_together_a_run_is_the_same(together) -> None:
    found = [together.run(2, JOB + "short_of_room", rooms=rooms) for rooms in ([100, 41], None)]
    for (fitted, _), (typed, told) in zip(*found, strict=True):
        assert all(torch.equal(fitted[name], each) for name, each in typed.items()) and not told


@pytest.mark.parametrize("where", ["sample", "pull", "backward"])
def test_a_network_that_ends_half_way_begins_anew(together, where: str) -> None:
    roomy, _ = jobs.short_inside(Ranks(), where, short=-1)
    found = together.run(2, JOB + "short_inside", where=where, short=1)
    assert all(worst(state, roomy) <= 1e-9 for state, _ in found)
    assert [bool(failed) for _, failed in found] == [False, True]


@pytest.mark.parametrize(("before", "after"), [(2, 2), (2, 4), (4, 1), (1, 2)])
def test_it_goes_on_in_another_number(together, tmp_path: Path, before: int, after: int) -> None:
    def train(size: int, **more: object) -> list:
        named = {"method": "Bridge", "anchor": None, "folder": str(tmp_path), **more}
        if size == 1:
            return [jobs.train(Ranks(), **named)]
        return together.run(size, JOB + "train", size=size, **named)

    whole = jobs.train(Ranks(), "Bridge", anchor=None, steps=5)
    train(before, steps=2, every=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["final", "step-000001"]
    shards = tmp_path / "final" / "training" / "shards"
    assert shards.exists() == (before > 1)
    resumed = {"steps": 5, "resume": str(tmp_path / "final"), "folder": str(tmp_path / "rest")}
    found = train(after, **resumed)
    for _, state, _ in found:
        assert worst(state, whole[1]) <= 1e-12
    # The model is written whole.
    assert worst(saved(tmp_path / "rest" / "final"), whole[1]) <= 1e-12


def test_it_goes_on_bit_for_bit_in_the_same_number(together, tmp_path: Path) -> None:
    named = {"method": "DRaFTLV", "size": 2, "anchor": None}
    whole = together.run(2, JOB + "train", steps=4, **named)
    together.run(2, JOB + "train", steps=2, folder=str(tmp_path), **named)
    found = together.run(2, JOB + "train", steps=4, resume=str(tmp_path / "final"), **named)
    assert found[0][0] == whole[0][0][2:]
    for (_, state, _), (_, expected, _) in zip(found, whole, strict=True):
        assert all(torch.equal(state[name], expected[name]) for name in expected)


# How near to one process it comes: blocks that are quantised together are others when divided.
@pytest.mark.parametrize(
    ("optimizer", "near"),
    [("torchao.optim:AdamW8bit", 2e-2), ("schedulefree:AdamWScheduleFree", 1e-3)],
)
def test_any_optimizer_goes_on_bit_for_bit(
    together, tmp_path: Path, optimizer: str, near: float
) -> None:
    pytest.importorskip(optimizer.partition(":")[0], reason="the extra `optimizers` is absent")
    named = {"method": "DRaFTLV", "size": 2, "anchor": None, "optimizer": optimizer}
    middle = str(tmp_path / "step-000002")
    whole = together.run(2, JOB + "train", steps=4, folder=str(tmp_path), every=2, **named)
    found = together.run(2, JOB + "train", steps=4, resume=middle, **named)
    assert found[0][0] == whole[0][0][2:]
    for (_, state, _), (_, expected, _) in zip(found, whole, strict=True):
        assert all(torch.equal(state[name], expected[name]) for name in expected)
    alone = jobs.train(Ranks(), steps=4, **named)
    for name, expected in alone[1].items():
        torch.testing.assert_close(whole[0][1][name], expected, rtol=0, atol=near)
    if "8bit" in optimizer:
        with pytest.raises(CheckpointError, match=r"quantised .* of 2 processes .*shard=2"):
            jobs.train(Ranks(), steps=4, resume=middle, **named)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


@pytest.mark.parametrize("who", [["0"], ["1"], ["0", "1"]])
def test_an_interrupt_of_any_is_saved_once_by_all(together, tmp_path: Path, who: list) -> None:
    acts = {rank: ("signal", 3) for rank in who}
    together.start(2, JOB + "ending", folder=str(tmp_path), acts=acts)
    ended = together.finish()
    assert ended.codes == [1, 1]
    for told in ended.told:
        assert told.startswith("StoppedTogether: ")
    # Each finishes the step in which the signal came.
    assert "the parameters after step 3 are saved in" in ended.told[0]
    assert names(tmp_path) == ["step-000001", "step-000002", "step-000003"]


@pytest.mark.parametrize("act", ["fail", "kill"])
def test_what_one_has_lost_cannot_be_saved_and_checkpoints_stay(
    together, tmp_path: Path, act: str
) -> None:
    together.start(2, JOB + "ending", folder=str(tmp_path), acts={"1": (act, 3)})
    ended = together.finish()
    assert 0 not in ended.codes
    assert ended.told[0].startswith("RankEndedError: ")
    assert "are not saved, as the processes share them" in ended.told[0]
    assert "the newest checkpoint is" in ended.told[0]
    assert names(tmp_path) == ["step-000001", "step-000002"]


@pytest.mark.parametrize("act", ["fail", "kill"])
def test_a_network_whose_shards_are_gone_is_not_to_blame(together, tmp_path, act: str) -> None:
    acts = {"1": (act, 3)}
    together.start(2, JOB + "ending", folder=str(tmp_path), acts=acts, keep=False)
    ended = together.finish()
    assert 0 not in ended.codes
    assert "\nRankEndedError: " in ended.told[0] and "rank 1 " in ended.told[0]
    assert "\nComponentError: " not in ended.told[0].partition("RankEndedError: ")[0]


def test_a_score_that_is_not_finite_is_saved_by_all(together, tmp_path: Path) -> None:
    together.start(2, JOB + "ending", folder=str(tmp_path), acts={"1": ("spoil", 2)})
    ended = together.finish()
    told = ended.told[0].splitlines()[0]
    assert told.startswith("NonFiniteError: step 2 was stopped before the optimizer: the rewards")
    assert names(tmp_path) == ["last-good-000001", "step-000001"]


def test_functional_pulls_are_refused(together) -> None:
    for said in together.run(2, JOB + "functional"):
        assert "use `module_pull`" in said and "the first of which is 'inner'" in said
