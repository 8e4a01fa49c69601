"""A plain function of images and prompts stands wherever a reward's name does."""

from __future__ import annotations

import json

import pytest

from flowbp.evaluate import main as evaluate
from flowbp.evaluation import from_json, scores_from_json
from flowbp.run import main as run

# The tiny tokenizer counts letters.
pytestmark = pytest.mark.filterwarnings("ignore::flowbp.adapters.CutPromptWarning")

MODULE = """
def brightness(images, prompts):
    return images.mean((1, 2, 3)).float()
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    """The section that names the function, in a module of a name of its own."""
    name = f"mine_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    return f"{{name: '{name}:brightness'}}"


def test_inside_a_run(yaml, own, tmp_path, capsys):
    parts = f"{{a: {{reward: {own}, mean: 0, std: 1}}, b: {{reward: {own}, weight: 2}}}}"
    metrics = (
        f"{{m: {own}, r: {{name: reward, reward: {own}}}, j: {{name: judge, judge: {own}}}, "
        f"t: {{name: judge, judge: {{name: threshold, reward: {own}, at_least: 0.0}}}}}}"
    )
    typed = [
        yaml,
        f"reward={{name: weighted, parts: {parts}, calibration: {{prompts: 4}}}}",
        f"judge={own}",
        f"evaluation={{prompts: {{name: shapes, count: 4}}, every: 1, metrics: {metrics}}}",
        "training.steps=1",
    ]
    assert run([*typed, "--check"]) == 0
    assert run(typed) == 0
    (first, *_) = map(json.loads, (tmp_path / "run/evaluations.jsonl").read_text().splitlines())
    same = [first[name] for name in ("accuracy", "parts.a.raw", "parts.b.raw", "m", "r", "j")]
    assert 0 < same[0] < 1 and same == pytest.approx([same[0]] * 6, rel=1e-5)
    assert first["t"] == 1
    comparison = from_json((tmp_path / "run/comparison.json").read_text())
    assert all(0 < row.values["accuracy"] < 1 for row in comparison.before.rows)
    out = capsys.readouterr().out
    gain = next(line for line in out.splitlines() if line.startswith("accuracy gain"))
    assert "points" not in gain


def test_as_the_reward_itself_and_a_rewards_name_as_judge(yaml, own, models, tmp_path):
    judge = f"judge={{name: clip, source: {models}/reward}}"
    held_out = "evaluation={prompts: {name: shapes, count: 2}}"
    assert run([yaml, f"reward={own}", judge, held_out, "training.steps=1"]) == 0
    comparison = from_json((tmp_path / "run/comparison.json").read_text())
    assert all(-1 <= row.values["accuracy"] <= 1 for row in comparison.before.rows)


def test_a_sum_that_is_not_calibrated_is_no_judge(yaml, own, capsys):
    judge = f"{{name: weighted, parts: {{a: {{reward: {own}}}}}, calibration: {{prompts: 4}}}}"
    typed = [yaml, f"judge={judge}", "evaluation={prompts: {name: shapes, count: 2}}"]
    assert run([*typed, "--check"]) == 2
    assert "parts a have no `mean` and `std`" in capsys.readouterr().err


def test_in_an_evaluation(models, own, tmp_path):
    path = tmp_path / "evaluation.yaml"
    path.write_text(f"""
evaluation: {{folder: {tmp_path / "out"}, device: cpu, threads: 1, seeds: [3]}}
backbone: {{name: sd3, source: {models}/base, text_length: 4, use_t5: false}}
prompts: {{name: shapes, count: 3}}
sampling: {{steps: 1, height: 16, width: 16, batch: 4}}
embeddings: {{folder: null}}
metrics:
  m: {own}
  r: {{name: reward, reward: {own}}}
  w: {{name: weighted, parts: {{a: {{reward: {own}, mean: 0, std: 1}}}}}}
  j: {{name: judge, judge: {own}}}
  t: {{name: judge, judge: {{name: threshold, reward: {own}, at_least: 0.0}}}}
""")
    assert evaluate([str(path), "--check"]) == 0
    assert evaluate([str(path)]) == 0
    found = scores_from_json((tmp_path / "out/scores.json").read_text())
    assert set(found.columns) == {"m", "r", "w", "w.a.raw", "w.a.normalised", "j", "t"}
    for row in found.rows:
        same = [row.values[name] for name in ("m", "r", "w", "j")]
        assert 0 < same[0] < 1 and same == pytest.approx([same[0]] * 4, rel=1e-6)
        assert row.values["t"] == 1
    assert found.scale("t").verdict and not found.scale("j").verdict
