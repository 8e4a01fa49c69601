"""What `--check` says of the peak, and that it never fails for that."""

from __future__ import annotations

import pytest

from flowbp.adapters import Full
from flowbp.cli.run import predicted_memory
from flowbp.cli.run.check import division_of, tuned_sketch
from flowbp.cli.run.predicted_memory import peak_text
from flowbp.settings import RunContainer, load

from ...tiny_run import save_models, write_configuration


@pytest.fixture
def told(tmp_path):
    path = write_configuration(tmp_path, save_models(tmp_path))
    settings = load([str(path)]).settings
    container = RunContainer(settings=settings)
    sketch = tuned_sketch(settings.backbone, Full())
    found = division_of(settings, sketch, settings.optimizer)
    return lambda: peak_text(container, sketch, found)


def test_the_peak_is_told_with_what_it_is_made_of(told) -> None:
    text = told()
    assert text.startswith("about ")
    assert "MiB at the peak, in " in text and "MiB of activations, " in text


def test_a_reward_of_others_is_left_out_and_named(told, monkeypatch) -> None:
    monkeypatch.setattr(predicted_memory, "reward_sketch", lambda _: None)
    assert told().endswith("; without the reward, whose size is not known")


def test_what_cannot_be_predicted_is_said_with_why(told, monkeypatch) -> None:
    def fail(*_, **__):
        raise RuntimeError("no kernel for that\nand more")

    monkeypatch.setattr(predicted_memory, "predicted_peak", fail)
    assert told() == "activations: not known (RuntimeError: no kernel for that)"
