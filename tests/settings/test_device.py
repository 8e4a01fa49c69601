"""A device that is not there is refused by the configuration, with those that are."""

from __future__ import annotations

import pytest
import torch

from flowbp.config import ConfigurationError
from flowbp.settings import load
from flowbp.settings.device import fault_of_device

from ..tiny_run import write_configuration


@pytest.fixture(autouse=True)
def one_cpu(monkeypatch):
    """A machine without any accelerator."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    monkeypatch.setattr(torch.xpu, "is_available", lambda: False)


OTHERS = ["mps", "xpu", "npu", "hpu", "mtia", "vulkan", "xla", "meta", "cpu:1", "gpu"]
CUDA = ["cuda", "cuda:7", "cuda:99999999999999999999", "cuda:-1", "cuda:"]


@pytest.mark.parametrize("name", [*OTHERS, *CUDA])
def test_it_is_named_with_what_to_write(name, tmp_path, models):
    typed = [str(write_configuration(tmp_path, models)), f"run.device='{name}'"]
    with pytest.raises(ConfigurationError, match=r"device") as refused:
        load(typed)
    (problem,) = refused.value.problems
    assert repr(name) in str(problem) and "cpu" in str(problem) and "auto" in str(problem)
    assert problem.path.startswith("run")


@pytest.mark.parametrize("name", ["auto", "cpu", "cpu:0"])
def test_one_that_is_there_is_taken(name):
    assert list(fault_of_device("run", name)) == []


def test_all_that_are_there_are_named(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert list(fault_of_device("run", "cuda:1")) == []
    ((path, message),) = fault_of_device("run", "cuda:2")
    assert path == ("run", "device") and "cpu, cuda:0, cuda:1 here" in message
