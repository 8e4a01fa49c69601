"""Every family trains a step, in small, and what does not fit is a row."""

from __future__ import annotations

import json
import sys

import pytest
import torch
from torch import nn

from benchmarks.backbone_rows import Report, Row
from benchmarks.backbones import Bench, main
from benchmarks.measuring import WithState
from flowbp.training import AdamW


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


def test_compiling_by_the_settings_is_told_too():
    changed = ("run.compile=true", "run.activations=0.3")
    device = torch.device("cpu")
    assert Bench("sd35_medium", device, small=True, compiled=False, changed=changed).compiled


def test_what_does_not_fit_is_a_row(tmp_path):
    bench = Bench("sd35_medium", torch.device("cpu"), small=True, compiled=False)

    def short(images, prompts):
        raise torch.OutOfMemoryError("no room")

    whole, bench.reward = bench.reward, short
    failed = bench.row("sparse", side=512, batch=1, steps=1)
    bench.reward = whole
    fitted = bench.row("sparse", side=512, batch=2, steps=1)
    assert failed.seconds is None and fitted.seconds > 0
    report = Report(tmp_path)
    report.add(failed)
    report.add(fitted)
    lines = (tmp_path / "backbones.md").read_text().splitlines()
    assert "| out of memory |" in lines[2] and "| no |" in lines[2]
    assert "out of memory" not in lines[3]


def row(**figures):
    return Row(
        model="m", changed="", method="bridge", compiled=False, trained=1, batch=4, weights=1.0,
        **({"side": 512} | figures),
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


@pytest.mark.parametrize(("peak", "fits"), [(70.0, "yes"), (78.5, "no"), (None, "")])
def test_80_gb_are_what_a_program_has_of_them(tmp_path, peak, fits):
    assert Report(tmp_path).line(row(seconds=1.0, peak=peak))[12] == fits


def test_an_optimizer_has_its_state_before_the_first_step():
    weight = nn.Parameter(torch.ones(3))
    optimizer = WithState(AdamW(learning_rate=1e-3, weight_decay=0.0)).build([weight])
    assert optimizer.state[weight]["exp_avg"].shape == (3,)
    assert weight.grad is None and torch.equal(weight, torch.ones(3))
