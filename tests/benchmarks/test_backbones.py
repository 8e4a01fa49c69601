"""Every family trains a step, in small, and what does not fit is a row."""

from __future__ import annotations

import json
import sys
from contextlib import contextmanager

import pytest
import torch
from torch import nn
from torch._dynamo.utils import counters

from benchmarks import backbones
from benchmarks.backbone_tables import Report, Row
from benchmarks.backbones import Bench, main
from benchmarks.measurement import GIB, WithState, limited_memory
from flowbp.adapters.quantization import quantization_of
from flowbp.training import AdamW
from flowbp.training.device_memory import CudaMemory


def test_the_families_in_small(tmp_path, monkeypatch, capsys):
    typed = "--small --eager --methods refl --sides 512 1024 --batch 2 --steps 1 --pull 1"
    typed += " --set sampling.steps=11 --models flux1_dev flux2_klein"
    monkeypatch.setattr(sys, "argv", ["backbones", str(tmp_path), *typed.split()])
    main()
    tree = json.loads((tmp_path / "backbones.json").read_text())
    models = ("flux1_dev", "flux2_klein")
    expected = [(model, side) for model in models for side in (512, 1024)]
    assert [(row["model"], row["side"]) for row in tree["rows"]] == expected
    for row in tree["rows"]:
        assert row["batch"] == 2 and row["pull"] == 1 and row["seconds"] > 0
        assert row["trained"] > 0 and not row["compiled"]
    assert tree["environment"]["torch"]
    assert "| flux2_klein sampling.steps=11 | " in capsys.readouterr().out


def test_blocks_and_decoder_are_compiled_unless_it_is_eager():
    compiled, eager = (
        Bench("sd35_medium", torch.device("cpu"), small=True, compiled=wanted)
        for wanted in (True, False)
    )
    for bench, expected in ((compiled, True), (eager, False)):
        backbone = bench.tuned
        for part in (backbone.transformer.transformer_blocks[0], backbone.decoder.vae.decoder):
            assert (part._compiled_call_impl is not None) is expected


def test_compiling_by_the_settings_is_recorded_too():
    changed = ("run.compile=true", "run.activations=0.3")
    device = torch.device("cpu")
    assert Bench("sd35_medium", device, small=True, compiled=False, changed=changed).compiled


def test_a_base_in_fewer_bits_is_trained_by_a_lora():
    changed = ("backbone.quantization=int8",)
    bench = Bench("flux1_dev", torch.device("cpu"), small=True, compiled=False, changed=changed)
    plain = Bench("flux1_dev", torch.device("cpu"), small=True, compiled=False)
    assert quantization_of(bench.tuned.module) == "int8" and bench.weights < plain.weights
    assert bench.trained == plain.trained
    row = bench.row("bridge", side=512, batch=2, steps=1)
    assert row.seconds > 0 and row.changed == "backbone.quantization=int8"


def test_a_smaller_gpu_has_no_more_memory_to_allocate_or_to_fit_into(monkeypatch):
    fractions, taken = [], 3
    for name, found in (
        ("mem_get_info", lambda device=None: (100 * GIB, 140 * GIB)),
        ("memory_reserved", lambda device=None: taken * GIB),
        ("memory_allocated", lambda device=None: 2 * GIB),
        ("set_per_process_memory_fraction", fractions.append),
    ):
        monkeypatch.setattr(torch.cuda, name, found)
    memory = CudaMemory(torch.device("cuda"))
    with limited_memory(24):
        assert memory.free() == 22 * GIB
        assert torch.cuda.mem_get_info() == (21 * GIB, 24 * GIB)
        taken = 25
        assert torch.cuda.mem_get_info() == (0, 24 * GIB)
        assert fractions == [pytest.approx(24 / 140)]
    assert fractions[1:] == [1.0] and torch.cuda.mem_get_info()[0] == 100 * GIB


def test_the_networks_are_there_before_the_memory_is_limited(monkeypatch):
    limits = []

    @contextmanager
    def limited(gib):
        limits.append(gib)
        yield

    monkeypatch.setattr(backbones, "limited_memory", limited)
    bench = Bench("flux1_dev", torch.device("cpu"), small=True, compiled=False, memory=24)
    assert limits == []
    row = bench.row("bridge", side=512, batch=2, steps=1)
    assert limits == [24] and row.memory == 24


def test_what_does_not_fit_is_a_row(tmp_path):
    bench = Bench("sd35_medium", torch.device("cpu"), small=True, compiled=False)

    def short(images, prompts):
        raise torch.OutOfMemoryError("no room")

    whole, bench.reward = bench.reward, short
    failed = bench.row("sparse", side=512, batch=1, steps=1)
    bench.reward = whole
    fitted = bench.row("sparse", side=512, batch=2, steps=1)
    assert (failed.steps, failed.typed_pull) == (1, None)
    assert failed.seconds is None and fitted.seconds > 0
    report = Report(tmp_path)
    report.add(failed)
    report.add(fitted)
    lines = (tmp_path / "backbones.md").read_text().splitlines()
    assert "| out of memory |" in lines[2] and "| no |" in lines[2]
    assert "out of memory" not in lines[3]


def row(**figures):
    return Row(
        model="m", method="bridge", compiled=False, trained=1, batch=4, weights=1.0,
        **({"changed": "", "side": 512, "steps": 1} | figures),
    )  # fmt: skip


def test_a_later_visit_adds_its_rows_and_replaces_what_it_measures_again(tmp_path):
    first = Report(tmp_path)
    first.add(row(seconds=1.0))
    first.add(row(side=1024, seconds=4.0))
    later = Report(tmp_path)
    later.add(row(seconds=2.0))
    assert [(each.side, each.seconds) for each in Report(tmp_path).rows] == [
        (1024, 4.0),
        (512, 2.0),
    ]
    file = tmp_path / "backbones.json"
    file.write_text(file.read_text().replace(first.environment["torch"], "another"))
    assert Report(tmp_path).rows == []


def test_rows_of_other_columns_are_not_overwritten(tmp_path):
    Report(tmp_path).add(row())
    file = tmp_path / "backbones.json"
    written = file.read_text().replace('"side"', '"width"')
    file.write_text(written)
    with pytest.raises(SystemExit, match="other columns than are written now; name a new folder"):
        Report(tmp_path)
    assert file.read_text() == written


def test_a_row_of_another_pull_or_number_of_steps_is_another_row(tmp_path):
    report = Report(tmp_path)
    for sizes in ({}, {"typed_pull": 4, "pull": 4}, {"typed_pull": 8}, {"steps": 3}):
        report.add(row(**sizes))
    report.add(row(typed_pull=8, seconds=2.0))
    assert [each.seconds for each in report.rows] == [None, None, None, 2.0]
    assert [report.line(each)[6:8] for each in report.rows] == [
        ("1", ""), ("1", "4"), ("3", ""), ("1", "8"),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("model", "method", "pull"),
    [("sd35_medium", "leap_align", None), ("flux1_dev", "bridge", 1)],
)
def test_the_only_step_is_timed_without_compiling(monkeypatch, model, method, pull):
    """Nor the pull at a joint, which with adapters alone has code of its own."""
    bench = Bench(
        model, torch.device("cpu"), small=True, compiled=True, changed=("sampling.steps=11",)
    )
    torch._dynamo.reset()
    graphs, measured = [], Bench._measured

    def measure(*given):
        graphs.append(counters["stats"]["unique_graphs"])
        row = measured(*given)
        graphs.append(counters["stats"]["unique_graphs"])
        return row

    counters.clear()
    monkeypatch.setattr(Bench, "_measured", measure)
    assert bench.row(method, side=512, batch=2, steps=1, pull=pull).seconds > 0
    before, after = graphs
    assert before == after > 0


def test_a_row_of_a_smaller_gpu_is_another_row(tmp_path):
    report = Report(tmp_path)
    for each in (row(changed="a=b", memory=24.0, pull=2, decode=1), row(changed="a=b")):
        report.add(each)
    small, whole = map(report.line, report.rows)
    assert (small[0], whole[0]) == ("m a=b in 24 GiB", "m a=b")
    assert small[7:9] == ("2", "1") and whole[7:9] == ("", "")


@pytest.mark.parametrize(("peak", "fits"), [(70.0, "yes"), (78.5, "no"), (None, "")])
def test_80_gb_are_what_a_program_has_of_them(tmp_path, peak, fits):
    assert Report(tmp_path).line(row(seconds=1.0, peak=peak))[14] == fits


def test_an_optimizer_has_its_state_before_the_first_step():
    weight = nn.Parameter(torch.ones(3))
    optimizer = WithState(AdamW(learning_rate=1e-3, weight_decay=0.0)).build([weight])
    assert optimizer.state[weight]["exp_avg"].shape == (3,)
    assert weight.grad is None and torch.equal(weight, torch.ones(3))
