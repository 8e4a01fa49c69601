"""What both commands share: options and how an error ends them."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.metadata import version

import pytest

from flowbp import evaluate, run
from flowbp.config import ConfigurationError


@pytest.mark.parametrize("command", [run, evaluate])
def test_the_version_is_printed(command, capsys):
    with pytest.raises(SystemExit) as left:
        command.main(["--version"])
    assert left.value.code == 0
    assert capsys.readouterr().out == f"flowbp {version('flowbp')}\n"


@pytest.mark.parametrize("command", [run, evaluate])
def test_debug_raises_what_is_otherwise_printed(command, capsys):
    with pytest.raises(ConfigurationError, match=r"missing\.yaml"):
        command.main(["missing.yaml", "--debug"])
    assert command.main(["missing.yaml"]) == 2
    assert "missing.yaml" in capsys.readouterr().err
    with pytest.raises(SystemExit) as left:
        command.main([])
    assert left.value.code == 2


@pytest.mark.parametrize(("given", "found"), [(None, "passive"), ("active", "active")])
def test_waiting_threads_leave_the_cores_to_others(tmp_path, given, found):
    (tmp_path / "probe.py").write_text(
        "import os, sys\n"
        "def main(arguments):\n"
        "    print(os.environ['OMP_WAIT_POLICY'], 'torch' in sys.modules)\n"
        "    return 0\n"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), *sys.path])}
    environment.pop("OMP_WAIT_POLICY", None)
    if given is not None:
        environment["OMP_WAIT_POLICY"] = given
    code = "from flowbp.cli.start import start; raise SystemExit(start('probe', None))"
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    # Later, torch would not read it any more.
    assert done.stdout.split() == [found, "False"]
