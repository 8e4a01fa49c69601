"""What measures and compares knows nothing of YAML, containers and commands."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

import flowbp.study

EDGE = {"config", "settings", "cli"}
NUMERICS = [
    "agreement",
    "ascent",
    "comparison",
    "cost",
    "directions",
    "predictors",
    "summary",
]


@pytest.mark.parametrize("name", NUMERICS)
def test_the_numerics_import_no_edge(name):
    path = Path(flowbp.study.__file__).with_name(f"{name}.py")
    nodes = [node for node in ast.walk(ast.parse(path.read_text())) if hasattr(node, "module")]
    imported = {node.module.split(".")[1:2][0] for node in nodes if "flowbp." in node.module}
    assert not imported & EDGE
    inside = {node.module.split(".")[2] for node in nodes if "flowbp.study." in node.module}
    assert inside <= set(NUMERICS)
