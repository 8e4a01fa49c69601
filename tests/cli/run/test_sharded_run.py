"""The command where two processes share one model: the results are those of one process."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from flowbp.training.training_state import read_state

from ...training.processes import Together
from .test_several_processes import ALONE, EVALUATED, agree, evaluations, rows, typed

SHARED = ("batching.samples=2", "batching.global=4")


def run(together: Together, size: int, arguments: list[str], shard: int | str = "") -> list[str]:
    shard = size if shard == "" else shard
    together.start(size, "flowbp", typed=[*arguments, f"distributed.shard={shard}"])
    ended = together.finish()
    assert ended.codes == [0] * size, "\n".join(ended.told)
    assert [each for each in ended.told[1:] if "Warning" not in each] == [""] * (size - 1)
    return ended.told


def model(folder: Path, file: str) -> dict[str, torch.Tensor]:
    return load_file(folder / "run" / "checkpoints" / "final" / file)


def alike(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> None:
    assert found.keys() == expected.keys() and expected
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-4, atol=1e-6)


def files(folder: Path) -> list[str]:
    final = folder / "run" / "checkpoints" / "final"
    names = (path.relative_to(final).as_posix() for path in final.rglob("*") if path.is_file())
    return sorted(name for name in names if not name.startswith("training/shards"))


def test_a_shared_model_is_trained_and_evaluated_as_one(together, tmp_path: Path) -> None:
    more = (*SHARED, "training.steps=3", "checkpoints.every=2", "optimizer.eps=1e-3")
    for size in (1, 2):
        told = run(together, size, typed(tmp_path / str(size), *more, also=EVALUATED))
    said = " ".join(told[0].split())
    assert "processes 2, which share one model, gathered once a step" in said
    assert "MiB of shards" in said and "of a step's gradients" in said
    one, two = tmp_path / "1", tmp_path / "2"
    agree(rows(two), rows(one))
    agree(evaluations(two), evaluations(one))
    assert files(two) == files(one)
    weights = "transformer/diffusion_pytorch_model.safetensors"
    alike(model(two, weights), model(one, weights))
    for name in ("model_index.json", "transformer/config.json"):
        mine, theirs = (
            json.loads((place / "run" / "checkpoints" / "final" / name).read_text())
            for place in (two, one)
        )
        assert mine == theirs


FAMILY = ["sampling.guidance=2", "batching.decode=1", "training.steps=3", "optimizer.eps=1e-3"]
TUNINGS = {
    "full": ["training.averaging={decay: 0.5}", "anchor={strength: 0.1}"],
    "lora": ["tuning={name: lora, rank: 2}", "anchor={strength: 0.1}"],
    # An adapter in float32 on a base in bfloat16.
    "lora in bfloat16": [
        "tuning={name: lora, rank: 2}",
        "backbone.policy={weights: bfloat16, compute: bfloat16}",
    ],
    "checkpointing": ["backbone.gradient_checkpointing=true", "batching.pull=1"],
}


@pytest.mark.parametrize("tuning", TUNINGS)
def test_a_tiny_family_is_shared(together, yaml, tmp_path: Path, tuning: str) -> None:
    states = []
    for size in (1, 2):
        place = tmp_path / str(size)
        sizes = (f"run.folder={place}/run", "batching.samples=2", "batching.global=4")
        run(together, size, [yaml, *FAMILY, *TUNINGS[tuning], *sizes])
        states.append(read_state(place / "run" / "checkpoints" / "final"))
    agree(rows(tmp_path / "2"), rows(tmp_path / "1"))
    alike(dict(states[1].parameters), dict(states[0].parameters))
    assert files(tmp_path / "2") == files(tmp_path / "1")
    file = "pytorch_lora_weights.safetensors"
    if "lora" in tuning:
        alike(model(tmp_path / "2", file), model(tmp_path / "1", file))


def test_it_goes_on_in_one_process_and_back(together, tmp_path: Path) -> None:
    more = (*SHARED, "schedule.name=constant", "optimizer.eps=1e-3")
    for place, parts in (("whole", [(1, 4)]), ("parts", [(2, 2), (1, 3), (2, 4)])):
        for number, (size, steps) in enumerate(parts):
            again = ["--resume"] if number else []
            overrides = (*more, f"training.steps={steps}", *again)
            run(together, size, typed(tmp_path / place, *overrides, also=ALONE))
    agree(rows(tmp_path / "parts"), rows(tmp_path / "whole"))


def test_a_number_that_does_not_divide_is_refused(together, tmp_path: Path) -> None:
    for size, said in ((2, "must divide the 2 processes of the run, got 3"), (1, "one process")):
        together.start(size, "flowbp", typed=typed(tmp_path, "distributed.shard=3"))
        ended = together.finish()
        assert ended.codes == [2] * size
        assert "distributed.shard: " in ended.told[0] and said in ended.told[0]
