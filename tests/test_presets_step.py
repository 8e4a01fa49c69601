"""Every preset of a backbone with every one of a method trains a tiny model of that family."""

from __future__ import annotations

import json
import math

import pytest
import torch

from flowbp.cli.prompt_encoding import encode_prompts
from flowbp.cli.run.built_run import build_run
from flowbp.cli.run.phases import run_prompts
from flowbp.settings import RunContainer, load

from .presets import BACKBONES, COMBINATIONS, OURS, PUBLISHED, named, write_tiny

# The tiny tokenizers count letters.
pytestmark = pytest.mark.filterwarnings("ignore::flowbp.adapters.CutPromptWarning")


def copies(parameters):
    return {name: parameter.detach().clone() for name, parameter in parameters.items()}


@pytest.mark.parametrize("backbone, method", COMBINATIONS)
def test_one_step(backbone, method, sources, models, tmp_path):
    overlay = write_tiny(backbone, sources, models, tmp_path)
    container = RunContainer(settings=load([*named(method, backbone), overlay]).settings)
    step = container.step()
    assert step.method == PUBLISHED[method][BACKBONES.index(backbone)]
    assert step.sampling.steps == 25
    check_one_step(container, tmp_path)


@pytest.mark.parametrize("model", OURS)
def test_one_step_of_a_model_without_published_settings(model, sources, models, tmp_path):
    overlay = write_tiny(model, sources, models, tmp_path)
    container = RunContainer(settings=load([f"presets/{model}.yaml", overlay]).settings)
    check_one_step(container, tmp_path)


def check_one_step(container, tmp_path):
    step = container.step()
    before = copies(step.backbone.trainable())
    encode_prompts(container.model(), run_prompts(build_run(container)))
    container.trainer().run()
    (line,) = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    figures = [value for value in json.loads(line).values() if isinstance(value, int | float)]
    assert len(figures) > 5 and all(map(math.isfinite, figures))
    assert json.loads(line)["gradient_norm"] > 0
    after = step.backbone.trainable()
    assert any(not torch.equal(after[name], before[name]) for name in before)
    assert all(parameter.isfinite().all() for parameter in after.values())
