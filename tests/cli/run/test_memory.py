"""A run whose memory is short, from the command: it goes on, says so, and is resumed so."""

from __future__ import annotations

import json

import pytest
import torch

from flowbp.adapters import SD3Backbone
from flowbp.run import main

# The tiny tokenizer counts letters.
pytestmark = pytest.mark.filterwarnings("ignore::flowbp.adapters.CutPromptWarning")

REWARD = """
import torch

class Hungry:
    def __init__(self, most: int = 1):
        self.most = most

    def __call__(self, images, prompts):
        if len(images) > self.most:
            raise {kind}("{words}")
        return images.mean((1, 2, 3))
"""
DEVICE = ("torch.OutOfMemoryError", "tried to allocate 3 GiB")
MACHINE = (
    "RuntimeError",
    "[enforce fail at alloc_cpu.cpp:119] err == 0. DefaultCPUAllocator: can't allocate memory: you "
    "tried to allocate 3 GiB. Error code 12 (Cannot allocate memory)",
)


@pytest.fixture(params=[DEVICE, MACHINE], ids=["device", "machine"])
def reward(request, tmp_path, monkeypatch):
    kind, words = request.param
    name = "hungry_" + "".join(each if each.isalnum() else "_" for each in tmp_path.name)
    (tmp_path / f"{name}.py").write_text(REWARD.format(kind=kind, words=words))
    monkeypatch.syspath_prepend(tmp_path)
    return f"{name}:Hungry"


def lines(run):
    return [json.loads(line) for line in (run / "portions.jsonl").read_text().splitlines()]


def test_a_reward_that_needs_much_is_given_less(yaml, tmp_path, reward, capsys):
    typed = [yaml, f"reward={{name: '{reward}'}}", "batching={samples: 4, decode: 4}"]
    assert main(typed) == 0
    told = capsys.readouterr()
    for change in ("decode 4 -> 2", "decode 2 -> 1"):
        assert f"out of memory in decoding and scoring: {change} from here on" in told.err
    assert "portions.jsonl" in told.out
    run = tmp_path / "run"
    assert [(line["step"], line["pull"], line["decode"]) for line in lines(run)] == [
        (1, 4, 2),
        (1, 4, 1),
    ]
    # What was found out is known to the process that goes on.
    assert main([*typed, "training.steps=4", "--resume"]) == 0
    assert "out of memory" not in capsys.readouterr().err and len(lines(run)) == 2


def test_a_run_that_does_not_fit_at_all_says_what_is_left(yaml, reward, capsys):
    assert main([yaml, f"reward={{name: '{reward}', most: 0}}"]) == 1
    told = capsys.readouterr().err
    assert "out of memory in decoding and scoring: " in told and "; `decode` of" in told
    assert "tried to allocate 3 GiB" in told
    assert "a smaller reward" in told and "lower batching" not in told
    assert "the parameters after step 0 are saved" in told and "Traceback" not in told


def test_prompts_that_cannot_be_encoded_are_told_before_the_run(yaml, monkeypatch, capsys):
    def encode(*_):
        raise torch.OutOfMemoryError("tried to allocate 3 GiB")

    monkeypatch.setattr(SD3Backbone, "encode", encode)
    assert main([yaml]) == 1
    told = capsys.readouterr().err
    assert "encoding the prompts: tried to allocate 3 GiB; " in told
    assert "embeddings.batch=1" in told
    assert "lower evaluation.batch" not in told and "Traceback" not in told


def test_a_check_tells_auto(yaml, capsys):
    assert main([yaml, "--check", "batching.pull=1"]) == 0
    told = capsys.readouterr().out
    line = "2 samples at a time forward, pull 1, decode auto, gradient checkpointing auto"
    assert f"  portions    {line}\n" in told
    assert main([yaml, "--check", "backbone.gradient_checkpointing=true"]) == 0
    assert "pull auto, decode auto, gradient checkpointing on\n" in capsys.readouterr().out
    for typed, share in (("run.compile=true", 50), ("run={compile: true, activations: 0.3}", 30)):
        assert main([yaml, "--check", typed]) == 0
        told = " ".join(capsys.readouterr().out.split())
        assert f"compiled, blocks keep {share}% of their activations" in told
