"""No failure of a metric passes for success, and each is told with its own cure."""

from __future__ import annotations

import json
import math

import pytest
import torch

from flowbp.cli.evaluate.measurement import (
    MetricCalls,
    all_nan_failures,
    error_text,
    picture_failure,
    stopping_error,
)
from flowbp.cli.evaluate.metric_values import column
from flowbp.cli.evaluate.pictures import Shot
from flowbp.evaluate import main
from flowbp.evaluation import HeldOutPrompt

# The tiny tokenizers count letters.
pytestmark = pytest.mark.filterwarnings("ignore::flowbp.adapters.CutPromptWarning")

HERE = "tests.cli.evaluate.metrics_of_ours"
REPORT = "evaluation.on_failure=report"


def failures(folder):
    return json.loads((folder / "scores.json").read_text())["failures"]


def test_a_metric_that_judges_nothing_has_failed(evaluation_yaml, tmp_path, capsys):
    typed = [evaluation_yaml, f"metrics.mine.name={HERE}:judges_nothing"]
    assert main(typed) == 1
    message = "the metric `mine` judges none of the 12 pictures, all its values are NaN"
    assert message in capsys.readouterr().err
    # Nor does it pass when its figures are kept.
    assert main([*typed, "--resume"]) == 1
    assert message in capsys.readouterr().err
    assert main([*typed, "--resume", REPORT]) == 3
    (found,) = failures(tmp_path / "out")
    assert (found["metric"], found["model"]) == ("mine", "base")


def test_a_column_that_judges_nothing_has_failed_unless_it_is_of_a_total(evaluation_yaml, capsys):
    typed = [evaluation_yaml, f"metrics.mine.name={HERE}:HalfEmpty"]
    assert main([*typed, "metrics.mine.total=false"]) == 1
    message = "judges none of the 12 pictures, all values of mine.empty are NaN"
    assert message in capsys.readouterr().err
    assert main([*typed, "metrics.mine.total=true", "--resume"]) == 0


def test_columns_may_not_change(evaluation_yaml, tmp_path, capsys):
    typed = [evaluation_yaml, f"metrics.mine.name={HERE}:other_columns", "evaluation.batch=1"]
    assert main(typed) == 1
    told = capsys.readouterr().err
    assert "`mine` must return the same columns for all pictures, NaN where it judges" in told
    assert "got ['mine." in told and "after ['mine." in told
    assert main([*typed, "--resume", REPORT]) == 3
    rows = json.loads((tmp_path / "out" / "scores.json").read_text())["rows"]
    assert len({column for row in rows for column in row["values"]} - {"likeness"}) == 1


def test_memory_has_its_own_cure_and_is_let_go(evaluation_yaml, tmp_path, capsys):
    typed = [evaluation_yaml, f"metrics.mine.name={HERE}:out_of_memory"]
    assert main(typed) == 1
    told = next(x for x in capsys.readouterr().err.splitlines() if x.startswith("the metric"))
    assert "at 4 pictures together" in told and "lower evaluation.batch" in told
    assert "on_failure" not in told and "--resume continues" in told
    assert main([*typed, "--resume", REPORT]) == 3
    found = failures(tmp_path / "out")
    assert len(found) == 4 and all("lower evaluation.batch" in each["message"] for each in found)
    assert main([*typed, "--resume", "evaluation.batch=1"]) == 0
    assert not failures(tmp_path / "out")


def test_where_all_metrics_fail_the_exit_code_says_so(evaluation_yaml, capsys):
    typed = [f"metrics.{label}.name={HERE}:infinite" for label in ("a", "b")]
    assert main([evaluation_yaml, *typed, "metrics.likeness={name: shapes}", REPORT]) == 3
    assert "some metrics failed, see above" in capsys.readouterr().err


SHOT = Shot("base", 0, 3, HeldOutPrompt("a circle"))


def test_columns_are_named_by_their_metric():
    names = [("hps", "hps"), ("geneval", "counting"), ("sum", "sum.likeness.raw")]
    assert [column(*each) for each in names] == ["hps", "geneval.counting", "sum.likeness.raw"]
    bright = lambda images, prompts: {"mean": images.mean((1, 2, 3))}  # noqa: E731
    judged = MetricCalls("bright", bright, True, []).pictures(torch.ones(1, 3, 2, 2), [SHOT])
    assert judged == {SHOT: {"bright.mean": 1.0}}


def test_a_failure_that_does_not_stop_is_added():
    failures = []
    calls = MetricCalls("mine", lambda images, prompts: None, False, failures)
    assert calls.pictures(torch.ones(1, 3, 2, 2), [SHOT]) == {}
    assert [each.prompt for each in failures] == ["a circle"]


def test_a_failure_names_its_picture_and_its_cure():
    error = ValueError("it is white")
    assert error_text(error) == "ValueError: it is white"
    assert picture_failure("hps", [SHOT], error).message == "ValueError: it is white"
    text = str(stopping_error("hps", [SHOT], error))
    for piece in ("`hps`", "'a circle'", "seed 3", "`base`", "it is white", "on_failure=report"):
        assert piece in text


def test_values_that_are_all_nan_are_a_failure():
    (failed,) = all_nan_failures("mine", {SHOT: {"mine": math.nan}}, totals={})
    assert failed.model == "base"
