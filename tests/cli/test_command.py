"""What both commands share: options and how an error ends them."""

from __future__ import annotations

import pytest

from flowbp import __version__, evaluate, run
from flowbp.config import ConfigurationError


@pytest.mark.parametrize("command", [run, evaluate])
def test_the_version_is_printed(command, capsys):
    with pytest.raises(SystemExit) as left:
        command.main(["--version"])
    assert left.value.code == 0
    assert capsys.readouterr().out == f"flowbp {__version__}\n"


@pytest.mark.parametrize("command", [run, evaluate])
def test_debug_raises_what_is_otherwise_printed(command, capsys):
    with pytest.raises(ConfigurationError, match=r"missing\.yaml"):
        command.main(["missing.yaml", "--debug"])
    assert command.main(["missing.yaml"]) == 2
    assert "missing.yaml" in capsys.readouterr().err
    with pytest.raises(SystemExit) as left:
        command.main([])
    assert left.value.code == 2
