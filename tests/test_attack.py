"""A short draw of the attacks; CONTRIBUTING.md has the long one."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
DRAWS = {"kills": 3, "configurations": 20, "files": 10, "prompts": 12}


def test_a_short_draw_finds_nothing(tmp_path):
    out = tmp_path / "tries.json"
    draws = [f"{kind}={count}" for kind, count in DRAWS.items()]
    options = ["--jobs", "2", "--json", str(out), "--folder", str(tmp_path / "scene")]
    (tmp_path / "scene").mkdir()
    ended = subprocess.run(
        [sys.executable, "-m", "tools.attack", *draws, *options],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout + ended.stderr
    tries = json.loads(out.read_text())
    assert {kind: len(tries[kind]) for kind in DRAWS} == DRAWS
    outcomes = {kind: {each["outcome"] for each in tries[kind]} for kind in DRAWS}
    # The draw is one of attacks, which do their work and are survived. How many kills come before
    # a run ends is a matter of the machine.
    assert sum(each["kills"] for each in tries["kills"]) >= 1 and "same" in outcomes["kills"]
    assert {"same", "refused"} <= outcomes["files"]
    assert {"taken", "refused"} <= outcomes["configurations"] & outcomes["prompts"]
