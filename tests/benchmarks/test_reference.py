"""The reference benchmark in small: cases, sweeps, what does not fit, and split visits."""

from __future__ import annotations

import json
import sys
from functools import partial
from types import SimpleNamespace

import attrs
import pytest
import torch

from benchmarks import counting, reference
from benchmarks.random_models import METHODS
from benchmarks.reference import alternate, chosen, compare, sweep
from benchmarks.reference_cases import JOINT, MAIN, SWEEPS, Case
from benchmarks.reference_tables import Measured, Tables
from flowbp.core import Bridge


def run(module, monkeypatch, *typed):
    monkeypatch.setattr(sys, "argv", [module.__name__, *map(str, typed)])
    module.main()


def test_a_visit_in_two_parts_and_the_count(tmp_path, monkeypatch, capsys):
    few = dict(samples=2, pull=2, steps=4, method=Bridge(active=2))
    cases = tuple(attrs.evolve(case, **few) for case in MAIN)
    for module in (reference, counting):
        monkeypatch.setattr(module, "MAIN", cases)
    small, rows = (tmp_path, "--small", "--eager"), ("joint graph", "streamed, not compiled")
    run(reference, monkeypatch, *small, "--rounds", 0, "--only", *rows)
    swept = ("--sweeps", "active", "steps", "--only", "K = 1, Sparse", "N = 10")
    run(reference, monkeypatch, *small, "--no-main", *swept)
    run(counting, monkeypatch, tmp_path, "--small")
    tables = json.loads((tmp_path / "reference.json").read_text())
    assert list(tables) == ["reference step", "active", "steps"]
    joint, streamed = tables["reference step"]["rows"]
    assert streamed["cosine"] == pytest.approx(1, abs=1e-6)
    # 4 steps of two branches; then 2 pulls of one, or of two in the joint graph.
    assert (joint["evaluations"], streamed["evaluations"]) == (12, 10)
    assert 1 < joint["tflop"] / streamed["tflop"] < 1.5
    # Conditioning, a negative one besides in the joint graph, and noise.
    assert [sum(row["waits"].values()) for row in (joint, streamed)] == [5, 3]
    (one,) = tables["active"]["rows"]
    assert one["evaluations"] == 51 and not one["compiled"]
    assert one["method"].startswith("Sparse(active=1")
    assert tables["steps"]["rows"][0]["seconds"]
    assert "| streamed, not compiled | no |" in capsys.readouterr().out


@pytest.mark.parametrize("name", SWEEPS)
def test_every_case_of_a_sweep_can_be_drawn_and_worked_in_portions(name):
    """Also the short run before it; and the sweeps of the joint graph are of what it computes.

    The short run has steps that are active and steps that are not, and so the shapes of both.
    """
    cases = SWEEPS[name]()
    assert len({case.name for case in cases}) == len(cases) > 2
    for case in (*cases, *(case.brief for case in cases)):
        sigmas = torch.linspace(1, 0, case.steps + 1)
        surrogate = case.method.draw(sigmas, torch.Generator().manual_seed(0))
        assert case.batching.total() == case.samples
        assert case in cases or 0 < sum(len(s.active) for s in surrogate.segments) < case.steps
        assert case.pull <= case.samples and case.sampling.height == case.side
        if name.startswith("joint"):
            assert case.joint and case.one_pass and case.detach_negative
            assert surrogate.noised == 0 and surrogate.residual_floor is None


def test_the_method_sweep_has_all_presets():
    assert [case.name for case in SWEEPS["method"]()] == list(METHODS) and len(METHODS) == 8


def test_eager_compiles_nothing_and_only_names_rows():
    assert not any(case.compiled for case in chosen(MAIN, None, eager=True))
    named = ("joint graph", "streamed, blocks compiled")
    assert [case.name for case in chosen(MAIN, named, eager=False)] == list(named)


class Short:
    """A subject that has no memory for more than some samples at once."""

    def __init__(self, most):
        self.most, self.device, self.evaluated, self.ran = most, torch.device("cpu"), 0, []

    def prepared(self, case):
        return partial(self.run, case)

    def run(self, case):
        self.ran.append(case)
        if case.samples > self.most:
            raise torch.OutOfMemoryError("no room")
        self.evaluated = case.samples

    def gradient(self):
        return ["gradient"]

    def cosine(self, reference):
        return 1.0


def small_cases(*counts):
    return [attrs.evolve(JOINT, name=f"B = {n}", at=n, samples=n) for n in counts]


def test_what_does_not_fit_is_a_row_of_a_sweep(tmp_path):
    tables = Tables(tmp_path)
    results = sweep(Short(4), small_cases(4, 8, 2), lambda rows: tables.put("joint", 1.0, rows))
    assert [result.fits for result in results] == [True, False, True]
    lines = (tmp_path / "reference.md").read_text().splitlines()
    assert sum("out of memory" in line for line in lines) == 1
    assert "| B = 8 | no | out of memory |" in lines[7]


def test_what_does_not_fit_is_not_run_again(tmp_path):
    subject, cases = Short(4), small_cases(8, 4)
    results = alternate(subject, cases, 2, lambda rows: None)
    compare(subject, results)
    assert [case.samples for case in subject.ran] == [8, 4, 4, 4, 4]
    # There is nothing to compare with.
    assert [result.cosine for result in results] == [None, None]
    assert len(results[1].seconds) == 2


def test_a_timed_run_finds_the_memory_that_the_run_before_it_left(monkeypatch):
    """The allocator is emptied before first and short runs alone."""
    subject, cleared = Short(4), []
    monkeypatch.setattr(reference, "clear", lambda: cleared.append(len(subject.ran)))
    alternate(subject, small_cases(4, 2), 2, lambda rows: None)
    assert cleared == [0, 1] and len(subject.ran) == 6
    cleared.clear()
    sweep(subject, small_cases(4, 2), lambda rows: None)
    assert cleared == [6, 8] and len(subject.ran) == 10


def test_what_is_no_lack_of_memory_ends_the_benchmark():
    subject = SimpleNamespace(prepared=lambda case: lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        sweep(subject, small_cases(1), lambda rows: None)


def test_a_row_says_all_of_its_case():
    row = Measured(Case(name="one", at=3, checkpointing=True)).row()
    assert json.loads(json.dumps(row))["method"].startswith("Bridge(active=5")
    assert (row["at"], row["checkpointing"], row["fits"], row["waits"]) == (3, True, True, None)
