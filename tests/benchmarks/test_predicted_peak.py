"""The predicted peak of a step against those that were measured, and those that docs have."""

from __future__ import annotations

import json
import re
from pathlib import Path

import attrs
import pytest
import torch

from benchmarks.backbones import backbone_of, predicted
from benchmarks.random_models import settings_of
from benchmarks.several_gpus import CASES
from benchmarks.several_gpus_table import rows_of
from flowbp.cli.run.check import division_of
from flowbp.settings.unloaded_model import META
from flowbp.training.division import GIB

DOCS = Path(__file__).parents[2] / "docs"
TABLE = DOCS / "backbones_h100.json"
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


@pytest.mark.parametrize(
    ("processes", "case", "shown"),
    [
        (1, "sd35", "of the whole model (measured"),
        (2, "sd35_kept", "of two shards ("),
        (4, "sd35_kept", "of four ("),
        (2, "sd35_by_block", "gathered block by block ("),
    ],
)
def test_what_is_predicted_of_several_gpus_is_what_the_docs_have(processes, case, shown) -> None:
    measured = rows_of(DOCS / "several_gpus_h200.jsonl")
    row = next(
        each
        for each in measured
        if (each.case, each.processes, each.total) == (case, processes, 8 * processes)
    )
    side = CASES[case].side
    sizes = f"batching.samples={row.samples}", f"batching.global={row.total}"
    sides = f"sampling.height={side}", f"sampling.width={side}"
    settings = settings_of(row.model, "bridge", *sizes, *sides, *row.changed)
    sketch = settings.tuning(
        backbone_of(settings, row.model, META, small=False), generator=torch.Generator()
    )
    found = CASES[case].division(processes), division_of(settings, sketch, settings.optimizer)[1]
    peak = predicted(settings, row.model, found, processes=processes, compiled=row.compiled)
    text = (DOCS / "distributed.md").read_text()
    predicted_gib, gib = re.search(
        rf"([\d.]+) (?:GiB )?{re.escape(shown)} ?([\d.]+)\)", text
    ).groups()
    assert float(predicted_gib) == pytest.approx(peak.total / GIB, abs=0.1)
    assert gib == f"{max(row.training_gib):.1f}"
    assert 1.025 < peak.total / GIB / max(row.training_gib) < 1.065
