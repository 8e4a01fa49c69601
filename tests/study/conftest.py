from __future__ import annotations

from pathlib import Path

import pytest

STUDY = """
folder: {folder}
run:
  run: {{folder: unused, device: cpu, threads: 1}}
  backbone: {{name: "study_toy:flow"}}
  reward: {{name: "study_toy:nearness"}}
  judge: {{name: "study_toy:near"}}
  prompts: {{name: "study_toy:Goals"}}
  loss: {{name: linear}}
  sampling: {{steps: 4, guidance: 1.0, height: 1, width: 1}}
  batching: {{samples: 4}}
  embeddings: {{folder: null}}
  optimizer: {{name: adamw, weight_decay: 0.0}}
  training: {{averaging: null, clip: null}}
  evaluation: {{prompts: {{name: "study_toy:Goals"}}}}
methods:
  exact: {{name: draft, last: 4}}
  last: {{name: draft, last: 1}}
ascent: {{draws: 3, batch: 4, batches: 2, others: 8, lengths: [0.1, 0.5], relative: false}}
training:
  rates: [1e-3, 1e-2]
  seeds: [0, 1]
  steps: 5
  weights: {{forward: 1e-6, pull: 1, picture: 0}}
  evaluations: 2
"""
"""The exact gradient takes four pulls, and the last step's one, so that it takes more steps."""


@pytest.fixture
def study_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A study of the toy, which goes to `tmp_path/study`."""
    monkeypatch.syspath_prepend(Path(__file__).parent)
    path = tmp_path / "study.yaml"
    path.write_text(STUDY.format(folder=tmp_path / "study"))
    return path
