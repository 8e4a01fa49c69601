"""The benchmarks run, in small."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

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
