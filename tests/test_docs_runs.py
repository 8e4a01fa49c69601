"""docs/runs.md names every column and file of a run."""

from __future__ import annotations

import re
from pathlib import Path

import attrs

from flowbp.cli.run.folder import DESCRIPTIONS
from flowbp.training import Metrics

PAGE = (Path(__file__).parents[1] / "docs" / "runs.md").read_text()


def first_cells(title: str) -> set[str]:
    section = PAGE.split(f"\n## {title}")[1].split("\n## ")[0]
    cells = re.findall(r"^\| (`.*?) \|", section, flags=re.M)
    return {name.rstrip("/") for cell in cells for name in re.findall(r"`([^`]+)`", cell)}


def test_every_column_is_told():
    columns = {field.name for field in attrs.fields(Metrics)} - {"parts", "residuals"}
    told = first_cells("`metrics.jsonl`")
    several = ("parts.", "residual_")
    assert {name for name in told if not name.startswith(several)} == columns
    assert all(any(name.startswith(each) for name in told) for each in several)


def test_every_file_is_told():
    assert set(DESCRIPTIONS) <= first_cells("The folder")
