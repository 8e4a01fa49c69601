"""What docs/study.md and study.yaml show works."""

from __future__ import annotations

import re
from pathlib import Path

from flowbp.study.loader import load

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "study.md").read_text()
CHOOSING = (ROOT / "docs" / "choosing.md").read_text()


def test_the_example_runs_and_gains(capsys):
    (example,) = re.findall(r"^```python\n(.*?)^```", PAGE, flags=re.M | re.S)
    names: dict[str, object] = {}
    exec(compile(example, "study.md", "exec"), names)
    assert names["gain"].low > 0 and names["weights"].pull > 0
    assert "on others" in capsys.readouterr().out


def test_the_shipped_study_is_valid(monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    study = load(["study.yaml", f"folder={tmp_path}"]).settings
    assert study.run.batching.samples == 16 and len(study.settings.methods) == 6


def test_the_study_of_the_default_run_trains_as_it_does(monkeypatch, tmp_path):
    monkeypatch.chdir(ROOT)
    study = load(["examples/default_run_study.yaml", f"folder={tmp_path}"]).settings
    training = study.settings.training
    assert (
        training is not None
        and training.weights is not None
        and len(training.seeds) == 5
        and len(study.settings.methods) == 8
    )
    steps = {each: study.steps_of(each, training.weights) for each in study.settings.methods}
    for label in ("refl", "lagrange", "leap_align", "draft_lv", "drtune", "exact"):
        assert f"| {steps[label]} |" in CHOOSING, f"docs/choosing.md lacks the steps of {label}"
    assert steps["bridge"] == 200
