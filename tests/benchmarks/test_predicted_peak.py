"""The predicted peak of a step against those that were measured on an H100."""

from __future__ import annotations

import json
from pathlib import Path

import attrs
import pytest
import torch

from benchmarks.backbones import backbone_of, predicted
from benchmarks.random_models import settings_of
from flowbp.cli.run.check import division_of
from flowbp.settings.unloaded_model import META
from flowbp.training.division import GIB

TABLE = Path(__file__).parents[2] / "docs" / "backbones_h100.json"
MEMORY = int(79.1 * GIB)
TOLERANCE = 0.1
# Each model at 512, and one at 1024; building the others takes long.
ROWS = (0, 1, 2, 4)


def rows():
    return json.loads(TABLE.read_text())["rows"]


@pytest.mark.parametrize("row", [rows()[number] for number in ROWS], ids=lambda row: row["model"])
def test_the_peak_is_within_a_tenth_of_what_was_measured(row) -> None:
    found, peak = relative_error(row)
    assert abs(found) < TOLERANCE
    assert peak.portions.pull == row["pull"]
    assert row["checkpointing"] in (None, peak.portions.checkpointing)


def relative_error(row):
    sizes = (row["side"], row["side"], row["batch"], row["batch"])
    keys = ("sampling.height", "sampling.width", "batching.samples", "batching.global")
    changes = [f"{key}={size}" for key, size in zip(keys, sizes, strict=True)]
    changes += [f"batching.pull={row['typed_pull']}"] if row["typed_pull"] else []
    settings = settings_of(row["model"], row["method"], *changes, *row["changed"].split())
    sketch = settings.tuning(
        backbone_of(settings, row["model"], META, small=False), generator=torch.Generator()
    )
    sizes = division_of(settings, sketch, settings.optimizer)
    compiled = row["compiled"]
    peak = predicted(settings, row["model"], sizes, compiled=compiled, memory=MEMORY)
    assert attrs.asdict(sizes[0]) == {"shard": 1, "keep": True}
    return peak.total / GIB / row["peak"] - 1, peak
