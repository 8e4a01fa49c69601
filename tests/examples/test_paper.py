"""`python -m examples.paper`: 21 runs with the published settings, their evaluations, the page."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from examples.paper import __main__ as command
from examples.paper.cost import hours_of, overview, size_of
from examples.paper.execution import execute, start
from examples.paper.page import page
from examples.paper.published import METHODS, MODELS, SCORES
from examples.paper.settings import load, published_files
from flowbp.config import plain
from flowbp.config.command_line import read_arguments
from flowbp.settings import load as load_run
from flowbp.settings import preset_or_file

from ..adapters.families import FAMILIES
from ..presets import COMBINATIONS, PUBLISHED, ROOT, SAMPLES, TINY

# The tiny tokenizers count letters.
pytestmark = pytest.mark.filterwarnings("ignore::flowbp.adapters.CutPromptWarning")

TRAINED, HELD_OUT = ("a circle", "a square", "two rings"), ("a star", "a red ring")


class Here:
    """Starts a command in this process, and has ended at once."""

    def __init__(self) -> None:
        self.started: list[list[str]] = []

    def __call__(self, typed, log, environment):
        _, flag, module, *arguments = typed
        assert flag == "-m"
        self.started.append([module, *arguments])
        with log.open("a") as stream, contextlib.redirect_stdout(stream):
            with contextlib.redirect_stderr(stream):
                self.code = importlib.import_module(module).main(arguments)
        return self

    def poll(self):
        return self.code

    def wait(self):
        return self.code

    def terminate(self):
        raise AssertionError("it has ended")


@pytest.fixture
def file(tmp_path, models, sources):
    """The user's file, for tiny models of the three families."""
    (tmp_path / "train.txt").write_text("\n".join(TRAINED))
    (tmp_path / "held_out.txt").write_text("\n".join(HELD_OUT))
    reward = {"name": "clip", "source": str(models / "reward")}
    absent = ("image_reward", "hpsv3", "clipscore", "unified_reward")
    tree = {
        "folder": str(tmp_path / "paper"),
        "gpus": 1,
        "models": {
            model: {
                "source": str(sources[model]),
                "text_length": FAMILIES[TINY[model]].text_length,
            }
            for model in MODELS
        },
        "run": {
            "run": {"device": "cpu", "threads": 1, "compile": False},
            "reward": reward,
            "loss": {"name": "linear"},
            "prompts": {"name": "text", "path": str(tmp_path / "train.txt")},
            "embeddings": {"folder": None},
            "sampling": {"height": 16, "width": 16},
            "batching": {"samples": 2, "global": 2, "pull": 1},
            "training": {"steps": 1, "averaging": None},
            "observers": {"tensorboard": False},
        },
        "scores": {
            "prompts": {"name": "text", "path": str(tmp_path / "held_out.txt")},
            "metrics": {"hpsv2": reward, "pickscore": reward, **dict.fromkeys(absent)},
        },
    }
    path = tmp_path / "paper.yaml"
    path.write_text(json.dumps(tree))
    return path


def changed(path: Path, **sections: object) -> Path:
    """The file with other sections, laid over those that are there."""
    tree = json.loads(path.read_text())
    for name, value in sections.items():
        both = isinstance(value, dict) and isinstance(tree.get(name), dict)
        tree[name] = {**tree[name], **value} if both else value
    path.write_text(json.dumps(tree))
    return path


@pytest.mark.parametrize("model, method", COMBINATIONS)
def test_the_settings_are_the_published_ones(model, method):
    mine = ["prompts={name: shapes}", "run.folder=runs/none"]
    run = load_run([*published_files(model, method), *mine]).settings
    place = list(MODELS).index(model)
    assert run.method == PUBLISHED[method][place]
    assert type(run.tuning).__name__ == "Full"
    policy = run.backbone.arguments["policy"]
    assert (str(policy.weights), str(policy.compute)) == ("torch.float32", "torch.bfloat16")
    assert run.backbone.arguments["text_length"] == 512
    sampling = run.sampling
    assert (sampling.steps, sampling.height, sampling.width) == (25, 512, 512)
    assert sampling.guidance == (3.5, 1.0, 4.0)[place]
    assert run.backbone.arguments.get("embedded_guidance") == (None, 4.0, None)[place]
    assert sampling.detach_negative == ((model, method) != ("sd35_medium", "leap_align"))
    last = run.sampling.grid.known(25)
    assert (None if last is None else round(float(last[-2]), 4)) == (0.1111, None, None)[place]
    samples, portions = SAMPLES[model].get(method, SAMPLES[model][None])
    assert run.batching.samples == samples
    assert run.batching.total(8) == 8 * samples * portions
    optimizer = run.optimizer
    assert (optimizer.learning_rate, optimizer.betas) == (1e-5, (0.9, 0.999))
    assert (optimizer.weight_decay, type(run.schedule).__name__) == (1e-4, "Constant")
    training = run.training
    assert (training.steps, training.clip, training.sample_clip) == (300, 1.0, None)
    assert (training.averaging.decay, training.averaging.warmup) == (0.995, False)
    assert (run.reward.name, run.loss.target, run.anchor) == ("hpsv2", 0.55, None)


def test_from_runs_to_the_page(file, capsys):
    methods = ["leap_align", "bridge"]
    paper = load(file, methods=methods)
    here = Here()
    assert "left: 6 runs and 9 evaluations; 0.0 hours of 0 runs" in overview(paper)
    assert execute(paper, start=here) == []
    # The bases come first, so that a metric that fails does so before the training.
    kinds = [each[0] for each in here.started]
    assert kinds == 3 * ["flowbp.evaluate"] + 6 * ["flowbp.run"] + 6 * ["flowbp.evaluate"]
    folder = paper.settings.folder
    for training in paper.trainings:
        # Nothing but the model is kept.
        assert [each.name for each in (training.folder / "checkpoints").iterdir()] == ["final"]
        assert not (training.final / "training").exists()
    for row in paper.rows:
        assert row.scores().models == (row.label,)
    noise = {
        str(row.scores().rows[0].values) for row in paper.rows if row.model == "sd35_medium"
    }
    assert len(noise) > 1, "training changed the pictures"
    text = page(paper)
    base, trained = (f"| {name} | " for name in ("base", "Bridge"))
    for model in MODELS:
        section = text.split(f"## {MODELS[model]}\n")[1].split("\n## ")[0]
        assert base in section and trained in section and "change from base" in section
        for known in SCORES[model].values():
            assert all(f"({value})" in section for value in known.values())
    assert "`training.steps` is 1, published 300" in text
    assert "published, of a method not recorded here | – (0.4134) |" in text
    # Given again, nothing is done again.
    assert execute(load(file, methods=methods), start=here) == []
    assert len(here.started) == 15
    assert "done" in overview(paper) and "left: 0 runs and 0 evaluations" in overview(paper)
    assert command.main([str(file), "--page", "--model", "flux1_dev"]) == 0
    assert "FLUX.1-dev" in (folder / "paper.md").read_text()
