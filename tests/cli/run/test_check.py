"""Counting what a run would train, from the configuration alone."""

from __future__ import annotations

import shutil

from flowbp.adapters import Full, SD3Backbone
from flowbp.cli.run.check import trained_parameters, tuned_sketch
from flowbp.config import Component
from flowbp.shapes.embedded import base_folder, embedded_backbone


def counted(target, **arguments) -> int:
    return trained_parameters(tuned_sketch(Component("any", target, arguments), Full()))


def test_a_home_folder_is_counted_like_any_other(tmp_path, monkeypatch):
    shutil.copytree(base_folder(), tmp_path / "copy")
    monkeypatch.setenv("HOME", str(tmp_path))
    expected = counted(embedded_backbone)
    given = {"source": "~/copy", "use_t5": False}
    assert counted(SD3Backbone.from_pretrained, **given) == expected > 0
