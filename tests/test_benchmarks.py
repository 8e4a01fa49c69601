"""The benchmarks run, in small."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TYPED = "--small --models flux1_dev --methods refl --batch 2 --steps 2"


def test_backbones_in_small(tmp_path):
    command = [sys.executable, "-m", "benchmarks.backbones", str(tmp_path), *TYPED.split()]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    tree = json.loads((tmp_path / "backbones.json").read_text())
    (row,) = tree["rows"]
    assert row["model"] == "flux1_dev" and row["batch"] == 2 and row["seconds"] > 0
    assert row["trained"] > 0 and tree["environment"]["torch"]
    assert "| flux1_dev |" in done.stdout


def test_the_reference_step_in_small(tmp_path):
    cases = ("joint graph", "streamed, not compiled")
    command = [sys.executable, "-m", "benchmarks.reference", str(tmp_path), "--small", "--no-count"]
    command += ["--rounds", "0", "--cases", *cases]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    joint, streamed = json.loads((tmp_path / "reference.json").read_text())["tables"][
        "reference step"
    ]
    assert streamed["cosine"] == pytest.approx(1, abs=1e-6)
    # 6 steps of two branches; then 5 pulls of one, or of two in the joint graph.
    assert (joint["evaluations"], streamed["evaluations"]) == (22, 17)
    assert "| streamed, not compiled |" in done.stdout
