"""Fixtures of the run's tests: models saved once, a fresh configuration for each test."""

from __future__ import annotations

import os
import signal
import tempfile

import pytest

# Threads of several workers that spin while they wait keep each other from the cores.
os.environ.setdefault("OMP_WAIT_POLICY", "passive")

# Not into the home of whoever runs the tests, and not anew at each run of them.
os.environ.setdefault(
    "TORCHINDUCTOR_CACHE_DIR", os.path.join(tempfile.gettempdir(), f"flowbp-tests-{os.getuid()}")
)

# Before trackio is imported, which reads it then.
os.environ["TRACKIO_DIR"] = tempfile.mkdtemp(prefix="trackio-")


@pytest.fixture(scope="session", autouse=True)
def interrupted_by_default():
    """A shell's background job ignores SIGINT, which tests send to themselves."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session", autouse=True)
def unawaited_disk():
    """No test cuts the power, and a tiny run would wait for the disk as long as it computes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


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


@pytest.fixture(scope="session")
def sources(tmp_path_factory):
    """The folders of tiny models by the backbone preset that they stand for."""
    from .adapters.families import FAMILIES
    from .presets import TINY

    folders = {backbone: tmp_path_factory.mktemp(backbone) for backbone in TINY}
    for backbone, folder in folders.items():
        FAMILIES[TINY[backbone]].pipeline().save_pretrained(folder)
    return folders
