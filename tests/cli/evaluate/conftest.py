"""An evaluation on the tiny saved models, and checkpoints of runs on them."""

from __future__ import annotations

import pytest

CONFIGURATION = """
evaluation: {{folder: {folder}, device: cpu, threads: 1, seeds: [3, 4], batch: 4}}
backbone: {{name: sd3, source: {models}/base, text_length: 4, use_t5: false}}
prompts: {{name: shapes, count: 6}}
sampling: {{steps: 2, height: 16, width: 16, batch: 4}}
metrics:
  likeness: {{name: clip, source: {models}/reward}}
embeddings: {{folder: null}}
"""


@pytest.fixture
def evaluation_yaml(tmp_path, models):
    """The path of a configuration; its evaluation goes to `tmp_path/out`."""
    path = tmp_path / "evaluation.yaml"
    path.write_text(CONFIGURATION.format(folder=tmp_path / "out", models=models))
    return str(path)


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory, models):
    """The final checkpoints of two short runs that average: `full` and `lora`."""
    from flowbp.run import main

    from ...tiny_run import write_configuration

    found = {}
    for name, tuning in (("full", "{name: full}"), ("lora", "{name: lora, rank: 2, alpha: 4}")):
        folder = tmp_path_factory.mktemp(name)
        typed = [
            str(write_configuration(folder, models)),
            f"tuning={tuning}",
            "training.averaging={decay: 0.5, warmup: false}",
            "optimizer.learning_rate=0.02",
        ]
        assert main(typed) == 0
        found[name] = folder / "run" / "checkpoints" / "final"
    return found
