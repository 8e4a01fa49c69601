"""Optimizers and schedules of libraries in a run's YAML."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch

from flowbp.config import ConfigurationError
from flowbp.settings import Settings, load, resolved
from flowbp.training import OptimizerClass


def loaded(tmp_path: Path, *typed: str) -> Settings:
    return load(["container.yaml", f"run.folder={tmp_path / 'run'}", *typed]).settings


def problems(tmp_path: Path, *typed: str) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        loaded(tmp_path, *typed)
    return [f"{each.path}: {each.message}" for each in caught.value.problems]


def test_a_class_of_torch_is_taken_as_it_is_and_written_out(tmp_path: Path) -> None:
    found = loaded(tmp_path, "optimizer={name: torch.optim:SGD, lr: 0.1, momentum: 0.9}")
    assert found.optimizer == OptimizerClass(torch.optim.SGD, {"lr": 0.1, "momentum": 0.9})
    text = tmp_path / "resolved.yaml"
    text.write_text(resolved(found))
    assert "name: torch.optim.sgd:SGD\n  lr: 0.1\n  momentum: 0.9\n  dampening: 0" in resolved(
        found
    )
    assert resolved(load([str(text)]).settings) == resolved(found)


def test_a_schedule_of_transformers_is_taken_by_its_name(tmp_path: Path) -> None:
    schedule = "schedule={name: cosine_with_restarts, num_warmup_steps: 20, num_cycles: 3}"
    found = loaded(tmp_path, schedule)
    steps, rate = found.training.steps, found.optimizer.learning_rate
    assert found.schedule.factor(10, steps, rate) == pytest.approx(0.5)
    assert "name: cosine_with_restarts\n  num_warmup_steps: 20\n  num_cycles: 3" in resolved(found)
    text = tmp_path / "resolved.yaml"
    text.write_text(resolved(found))
    assert resolved(load([str(text)]).settings) == resolved(found)


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        ("{name: torch.optim:SGD, learning_rate: 1}", ["optimizer.learning_rate: is an unknown"]),
        (
            "{name: torch.optim:SGD, lr: fast, momentum: -1, nestrov: true}",
            [
                "optimizer.lr: must be a number, got 'fast'",
                "optimizer.nestrov: is an unknown key. Did you mean `nesterov`?",
                "optimizer.momentum: is -1.0, which torch.optim.sgd:SGD refuses: Invalid momentum",
            ],
        ),
        ("{name: torch.optim:Adam, betas: [0.9]}", ["optimizer.betas: must be a list of 2 items"]),
        ("{name: torch.optim:LBFGS}", ["optimizer: names torch.optim.lbfgs:LBFGS, which cannot"]),
        ("{name: torch.optim:Sgd}", ["optimizer.name: 'torch.optim:Sgd' cannot be imported"]),
        ("{name: adam}", ["optimizer.name: no optimizer is called 'adam'. Did you mean `adamw`?"]),
        ("{name: torch.optim:SGD, params: 3}", ["optimizer.params: is supplied by the run"]),
    ],
)
def test_mistakes_in_an_optimizer_are_told_at_its_keys(tmp_path, typed, told) -> None:
    found = problems(tmp_path, f"optimizer={typed}")
    assert len(found) == len(told)
    for line, begins in zip(found, told, strict=True):
        assert line.startswith(begins)


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        (
            "{name: cosine_with_restarts, warmup: 2}",
            ["schedule.warmup: is an unknown key", "schedule.num_warmup_steps: is missing"],
        ),
        (
            "{name: polynomial, num_warmup_steps: 2, power: high, num_training_steps: 9}",
            [
                "schedule.power: must be a number, got 'high'",
                "schedule.num_training_steps: is supplied by the run",
            ],
        ),
        (
            "{name: constant_with_warmup, num_warmup_steps: 1000}",
            ["schedule.num_warmup_steps: must be in [0, 199], got 1000"],
        ),
        (
            "{name: polynomial, num_warmup_steps: 2, lr_end: 1}",
            ["schedule: get_polynomial_decay_schedule_with_warmup refuses its keys: lr_end"],
        ),
    ],
)
def test_mistakes_in_a_schedule_are_told_at_its_keys(tmp_path, typed, told) -> None:
    found = problems(tmp_path, f"schedule={typed}")
    assert len(found) == len(told)
    for line, begins in zip(found, told, strict=True):
        assert line.startswith(begins)


def test_an_extra_that_is_absent_is_named(tmp_path, monkeypatch) -> None:
    present = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "torchao" else present(name)
    )
    assert problems(tmp_path, "optimizer={name: adamw_8bit}") == [
        "optimizer.name: the optimizer `adamw_8bit` needs torchao, which is not installed; run: "
        'pip install "flowbp-align[optimizers]"'
    ]


@pytest.mark.parametrize("name", ["adamw_8bit", "prodigy", "schedule_free"])
def test_those_of_the_extra_have_names(tmp_path, name: str) -> None:
    module = {"adamw_8bit": "torchao", "prodigy": "prodigyopt", "schedule_free": "schedulefree"}
    pytest.importorskip(module[name], reason="the extra `optimizers` is not installed")
    plain = ["training.averaging=null", "schedule={name: constant, warmup: 0}"]
    found = loaded(tmp_path, f"optimizer={{name: {name}, lr: 0.5}}", *plain)
    assert found.optimizer.learning_rate == 0.5
    assert f"optimizer:\n  name: {name}\n  lr: 0.5\n" in resolved(found)
    text = tmp_path / "resolved.yaml"
    text.write_text(resolved(found))
    assert resolved(load([str(text)]).settings) == resolved(found)


def test_what_an_optimizer_does_itself_is_not_done_twice(tmp_path: Path) -> None:
    pytest.importorskip("schedulefree", reason="the extra `optimizers` is not installed")
    typed = ["schedule={name: linear}", "training.averaging={decay: 0.9}"]
    found = problems(tmp_path, "optimizer={name: schedule_free}", *typed)
    assert [line.partition(":")[0] for line in found] == ["schedule", "training.averaging"]
    assert "give the optimizer `warmup_steps`" in found[0] and "averaging=null" in found[1]
