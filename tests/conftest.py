"""Fixtures of the run's tests: models saved once, a fresh configuration for each test."""

from __future__ import annotations

import pytest


@pytest.fixture(scope="session")
def models(tmp_path_factory):
    # Here, so that only the tests that need them pay for the libraries.
    from .tiny_run import save_models

    return save_models(tmp_path_factory.mktemp("models"))


@pytest.fixture
def yaml(tmp_path, models):
    """The path of a configuration; its run goes to `tmp_path/run`."""
    from .tiny_run import write_configuration

    return str(write_configuration(tmp_path, models))


@pytest.fixture
def without_tuning(monkeypatch):
    """Leave out the section `tuning`, which this version's schema does not have."""
    from flowbp.configuration import Tree
    from flowbp.settings import loading

    read = loading.read_arguments

    def cut(*arguments, **options):
        tree = read(*arguments, **options)
        return Tree({key: item for key, item in tree.value.items() if key != "tuning"}, tree.origin)

    monkeypatch.setattr(loading, "read_arguments", cut)
