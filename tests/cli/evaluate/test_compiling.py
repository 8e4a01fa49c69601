"""`evaluation.compile`: the models run compiled, whatever weights they get, and paint the same."""

from __future__ import annotations

from functools import partial

import pytest
import torch

from flowbp.adapters import compile_backbone
from flowbp.adapters.compilation import is_compiled
from flowbp.evaluate import main

from .test_command import pictures

# The tiny tokenizers count letters.
pytestmark = pytest.mark.filterwarnings("ignore::flowbp.adapters.CutPromptWarning")


def test_compiled_models_paint_the_same(evaluation_yaml, checkpoints, tmp_path, monkeypatch):
    models = {"base": "{}"} | {
        name: f"{{checkpoint: {place}}}" for name, place in checkpoints.items()
    }
    typed = [evaluation_yaml, "prompts.count=2"]
    typed += [f"models.{label}={given}" for label, given in models.items()]
    assert main(typed) == 0
    compiled = []

    def compiling(backbone):
        # The backend that compiles nothing but goes the same way, as this is not about its numbers.
        partial(compile_backbone, backend="eager")(backbone)
        compiled.append(is_compiled(backbone.module))

    torch._dynamo.reset()
    monkeypatch.setattr("flowbp.cli.evaluate.container.compile_backbone", compiling)
    other = f"evaluation.folder={tmp_path / 'compiled'}"
    assert main([*typed, other, "evaluation.compile=true"]) == 0
    assert compiled == [True]
    for label in models:
        found, expected = pictures(tmp_path / "compiled", label), pictures(tmp_path / "out", label)
        assert (found - expected).abs().max() <= 1 / 255 + 1e-6


def test_a_network_without_blocks_is_told(evaluation_yaml, capsys, monkeypatch):
    def none(backbone):
        compile_backbone(type("Bare", (), {"module": torch.nn.Identity()})())

    monkeypatch.setattr("flowbp.cli.evaluate.container.compile_backbone", none)
    assert main([evaluation_yaml, "evaluation.compile=true"]) == 2
    assert "`compile` needs a network with a list of blocks" in capsys.readouterr().err
