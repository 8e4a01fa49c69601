"""What is wrong in an evaluation's YAML, told at once and before any model is loaded."""

from __future__ import annotations

import pytest

from flowbp.evaluate import main

# The tiny tokenizers count letters.
pytestmark = pytest.mark.filterwarnings("ignore::flowbp.adapters.CutPromptWarning")

YAML = """\
evaluation:
  folder: {folder}
  seeds: [1, 1]
  on_failure: skip
backbone: {{name: shape}}
models:
  base: {{scale: 0.5}}
  mine: {{checkpoints: runs/a}}
prompts: {{name: shapes, count: 0}}
sampling: {{steps: 4, height: 64}}
metrics:
  quality: {{name: hpsv3, sources: here}}
  taste: {{name: pikscore}}
"""

EXPECTED = (
    "3: evaluation.seeds: must be distinct numbers of at least 0, got [1, 1]",
    "4: evaluation.on_failure: must be 'stop' or 'report', got 'skip'",
    "5: backbone.name: no backbone is called 'shape'. Did you mean `shapes`?",
    "7: models.base.scale: only applies to a LoRA, and no `checkpoint` is given; leave it out",
    "8: models.mine.checkpoints: is an unknown key. Did you mean `checkpoint`?",
    "9: prompts.count: must be",
    "10: sampling.width: is missing; it has no default",
    "12: metrics.quality.sources: is an unknown key. Did you mean `source`?",
    "13: metrics.taste.name: no metric is called 'pikscore'. Did you mean `pickscore`",
)


def test_every_mistake_at_once_with_its_line(tmp_path, capsys):
    path = tmp_path / "evaluation.yaml"
    path.write_text(YAML.format(folder=tmp_path / "out"))
    assert main([str(path)]) == 2
    told = capsys.readouterr().err
    for line in EXPECTED:
        assert f"{path}:{line}" in told, (line, told)
    assert not (tmp_path / "out").exists()


def test_what_sections_get_wrong_together(evaluation_yaml, checkpoints, models, tmp_path, capsys):
    (tmp_path / "file").write_text("no folder")
    (tmp_path / "empty").mkdir()
    part = f"reward: {{name: clip, source: {models}/reward}}"
    typed = {
        "evaluation.folder": f"{tmp_path}/file/out",
        "evaluation.device": "cuda:99",
        "models.none.checkpoint": f"{tmp_path}/none",
        "models.empty.checkpoint": f"{tmp_path}/empty",
        "models.whole": f"{{checkpoint: {checkpoints['full']}, scale: 0.5}}",
        "models.saved": f"{{checkpoint: {models}/base, averaged: false}}",
        "metrics.sum": f"{{name: weighted, parts: {{a: {{{part}}}}}, calibration: {{}}}}",
        "metrics.inner": f"{{name: reward, reward: {{name: weighted, parts: {{a: {{{part}}}}}}}}}",
    }
    assert main([evaluation_yaml, *(f"{key}={value}" for key, value in typed.items())]) == 2
    told = capsys.readouterr().err
    assert told.startswith("8 problems")
    for text in (
        "evaluation.folder: is ",
        "evaluation.device: is 'cuda:99', and torch sees",
        "models.none.checkpoint: is ",
        "which has no model_index.json and is no LoRA either",
        "models.whole.scale: is 0.5, and ",
        "models.saved.averaged: is false, and the checkpoint",
        "metrics.sum.calibration: would measure scales, which only a run does",
        "metrics.inner.reward.parts.a: has no `mean` and `std`",
    ):
        assert text in told, (text, told)


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        ("models={}", "models: is empty; write base: {} for the backbone itself"),
        ("models={'../up': {}}", "models: must have labels of letters"),
        ("metrics={'a.b': {name: shapes}}", "metrics: must have labels of letters"),
        ("sampling.negative_prompt=blurred", "`guidance` is 1, which never evaluates it"),
    ],
)
def test_single_mistakes(evaluation_yaml, capsys, typed, told):
    assert main([evaluation_yaml, typed]) == 2
    assert told in capsys.readouterr().err


def test_a_checkpoint_of_another_model(evaluation_yaml, tmp_path, capsys):
    from flowbp.shapes.embedded import base_folder

    for option in ([], ["--check"]):
        typed = [evaluation_yaml, f"models.other.checkpoint={base_folder()}", *option]
        assert main(typed) == 2
        told = capsys.readouterr().err.splitlines()[-1]
        assert "models.other.checkpoint: " in told
        assert "is of another model than the backbone" in told
