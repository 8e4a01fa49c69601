"""Fixtures shared by the adapter tests: each tiny pipeline is built once."""

from __future__ import annotations

from functools import cache

import pytest

from .tiny import tiny_pipeline


@pytest.fixture(scope="session")
def pipelines():
    """A function from `t5` to the tiny pipeline with or without it, shared: do not change it."""
    return cache(lambda t5: tiny_pipeline(t5=t5))


@pytest.fixture(scope="session")
def pipeline(pipelines):
    return pipelines(False)
