"""What `--check` says of the peak, and that it never fails for that."""

from __future__ import annotations

import pytest

from flowbp.adapters import Full
from flowbp.cli.run import predicted_memory
from flowbp.cli.run.check import division_of, tuned_sketch
from flowbp.cli.run.predicted_memory import peak_text
from flowbp.settings import RunContainer, load
from flowbp.training.memory_stages import UPDATE

from ...tiny_run import save_models, write_configuration


@pytest.fixture
def told(tmp_path):
    path = write_configuration(tmp_path, save_models(tmp_path))

    def tell(*changes: str, **replaced) -> str:
        settings = load([str(path), *changes]).settings
        container = RunContainer(settings=settings)
        for name, value in replaced.items():
            getattr(container, name).override(value)
        sketch = tuned_sketch(settings.backbone, Full())
        return peak_text(container, sketch, division_of(settings, sketch, settings.optimizer))

    return tell


def test_the_peak_is_told_with_what_it_is_made_of(told) -> None:
    text = told("run.device=cpu")
    assert text.startswith("about ")
    assert "MiB on cpu at the peak, in " in text and "MiB of activations, " in text


def test_more_than_the_device_has_is_told_with_what_helps(told, monkeypatch) -> None:
    monkeypatch.setattr(predicted_memory, "memory_bytes", lambda _: 2**16)
    assert f"; more than the 0.1 MiB of this device: {UPDATE.cure}" in told()


def test_the_judge_and_metrics_are_counted_once_or_named(told, tmp_path, monkeypatch) -> None:
    evaluated = "evaluation={prompts: {name: shapes, count: 2}, every: 1}"
    assert "judge and metrics" not in told(evaluated)
    judge = "judge={name: threshold, reward: {name: shapes}, at_least: 0.5}"
    pixels = "evaluation.metrics={pixels: {name: pixel_distance}}"
    counted = told(evaluated, judge, pixels)
    assert " of judge and metrics" in counted and "without" not in counted
    # The same model as the reward's.
    assert "judge and metrics" not in told(evaluated, judge, "reward={name: shapes}")
    # Of flowbp, and without a network.
    assert "without" not in told(evaluated, "judge={name: shapes}")
    (tmp_path / "own_scorers.py").write_text(
        "def red(images, prompts):\n    return images[:, 0].mean((1, 2))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    unknown = "{liked: {name: image_reward}, own: {name: 'own_scorers:red'}}"
    assert told(evaluated, f"evaluation.metrics={unknown}").endswith(
        "; without the metric liked and the metric own, whose sizes are not known"
    )
    assert told(judge=object()).endswith("; without the judge, whose size is not known")


def test_a_reward_of_others_is_left_out_and_named(told, monkeypatch) -> None:
    monkeypatch.setattr(predicted_memory, "reward_sketch", lambda _: None)
    assert told().endswith("; without the reward, whose size is not known")


def test_what_cannot_be_predicted_is_said_with_why(told, monkeypatch) -> None:
    def fail(*_, **__):
        raise RuntimeError("no kernel for that\nand more")

    monkeypatch.setattr(predicted_memory, "predicted_peak", fail)
    assert told() == "activations: not known (RuntimeError: no kernel for that)"
