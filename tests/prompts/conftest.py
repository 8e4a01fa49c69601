"""A tiny saved pipeline with a T5, and backbones over it."""

from __future__ import annotations

import pytest

from flowbp.adapters import SD3Backbone

from ..adapters.tiny import tiny_pipeline


@pytest.fixture(scope="session")
def saved(tmp_path_factory):
    """The folder of a tiny pipeline."""
    folder = tmp_path_factory.mktemp("pipeline")
    tiny_pipeline(t5=True).save_pretrained(folder)
    return folder


@pytest.fixture
def backbone(saved):
    return SD3Backbone.from_pretrained(saved, text_length=16)
