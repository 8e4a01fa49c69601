"""`--keys` of the commands."""

from __future__ import annotations

import pytest

from flowbp import evaluate, run
from flowbp.study import __main__ as study


@pytest.fixture(autouse=True)
def wide(monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")


def test_a_section_is_shown_with_types_defaults_and_presets(capsys):
    assert run.main(["--keys", "training"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("training  mapping  may be left out")
    at = next(i for i, line in enumerate(lines) if line.startswith("  training.steps "))
    assert lines[at].split("  ")[-1] == "default 300" and "1 to 10,000,000" in lines[at]
    assert lines[at + 1] == "      Optimizer steps."
    assert lines[at + 2].startswith("      presets: 300 in flux1_dev, ")
    columns = {line.index("default") for line in lines if line.startswith("  training.")}
    assert len(columns) == 1
    assert max(map(len, lines)) <= 100


def test_all_sections_are_shown_without_words(capsys):
    assert run.main(["--keys"]) == 0
    out = capsys.readouterr().out
    for line in ("anchor  mapping or null  default null", "reward  reward  required"):
        assert f"\n{line}\n" in out
    assert "  run.folder" in out and "hpsv2 " in out


def test_a_component_and_one_without_keys(capsys):
    assert run.main(["--keys", "method", "bridge"]) == 0
    assert "  method.alpha " in capsys.readouterr().out
    assert run.main(["--keys", "pair_draw", "uniform"]) == 0
    assert "It has no keys." in capsys.readouterr().out


def test_the_other_commands_show_theirs_without_presets(capsys):
    assert evaluate.main(["--keys", "models"]) == 0
    assert "  models.LABEL.checkpoint " in capsys.readouterr().out
    assert study.main(["--keys", "methods", "bridge"]) == 0
    out = capsys.readouterr().out
    assert "  methods.LABEL.alpha " in out and "presets" not in out


def test_what_there_is_not_is_a_mistake(capsys):
    assert run.main(["--keys", "metod"]) == 2
    assert "Did you mean `method`?" in capsys.readouterr().err


@pytest.mark.parametrize("also", [["--check"], ["--resume"], ["--presets"]])
def test_nothing_is_done_besides(capsys, also):
    with pytest.raises(SystemExit) as stopped:
        run.main(["--keys", *also])
    assert stopped.value.code == 2 and "--keys" in capsys.readouterr().err
