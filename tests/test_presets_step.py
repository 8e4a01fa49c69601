"""Every preset of a backbone with every one of a method trains a tiny model of that family."""

from __future__ import annotations

import json
import math

import pytest
import torch

from flowbp.container import RunContainer
from flowbp.run.encoding import encode_prompts
from flowbp.settings import load

from .adapters.families import FAMILIES
from .presets import BACKBONES, COMBINATIONS, PUBLISHED, named

# The tiny tokenizers count letters.
pytestmark = pytest.mark.filterwarnings("ignore::flowbp.adapters.CutPromptWarning")
TINY = dict(zip(BACKBONES, ("sd3", "flux1 dev", "flux2 klein-base"), strict=True))
OVERLAY = """
run: {{folder: {folder}, device: cpu, threads: 1}}
backbone: {{source: {source}, text_length: {text_length}}}
reward: {{name: clip, source: {reward}}}
prompts: {{name: shapes}}
embeddings: {{folder: null}}
sampling: {{height: 16, width: 16}}
batching: {{samples: 2, accumulate: 1, pull: 1}}
training: {{steps: 1, averaging: null}}
samples: null
checkpoints: {{every: null, keep: null}}
observers: {{tensorboard: false}}
"""


@pytest.fixture(scope="session")
def sources(tmp_path_factory):
    folders = {}
    for backbone, family in TINY.items():
        folders[backbone] = tmp_path_factory.mktemp(backbone)
        FAMILIES[family].pipeline().save_pretrained(folders[backbone])
    return folders


def copies(parameters):
    return {name: parameter.detach().clone() for name, parameter in parameters.items()}


@pytest.mark.parametrize("backbone, method", COMBINATIONS)
def test_one_step(backbone, method, sources, models, tmp_path):
    overlay = tmp_path / "tiny.yaml"
    overlay.write_text(
        OVERLAY.format(
            folder=tmp_path / "run",
            source=sources[backbone],
            text_length=FAMILIES[TINY[backbone]].text_length,
            reward=models / "reward",
        )
    )
    container = RunContainer(settings=load([*named(method, backbone), str(overlay)]).settings)
    step = container.step()
    assert step.method == PUBLISHED[method][BACKBONES.index(backbone)]
    assert step.sampling.steps == 25
    before = copies(step.backbone.trainable())
    encode_prompts(container)
    container.trainer().run()
    (line,) = (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()
    figures = [value for value in json.loads(line).values() if isinstance(value, int | float)]
    assert len(figures) > 5 and all(map(math.isfinite, figures))
    assert json.loads(line)["gradient_norm"] > 0
    after = step.backbone.trainable()
    assert any(not torch.equal(after[name], before[name]) for name in before)
    assert all(parameter.isfinite().all() for parameter in after.values())
