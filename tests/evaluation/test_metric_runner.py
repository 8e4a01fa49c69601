"""What is asked of a metric, in what order, and what it may answer."""

from __future__ import annotations

import weakref

import pytest
import torch

from flowbp.cli.evaluate.measurement import clear_frames
from flowbp.component_errors import ComponentError
from flowbp.evaluation import HeldOutPrompt
from flowbp.evaluation.metric_runner import (
    ColumnNames,
    OnDevice,
    columns_of_pictures,
    metric_columns,
    run_metric,
)

IMAGES = torch.arange(3.0).view(3, 1, 1, 1).expand(3, 3, 2, 2)
PICTURES = ["a", "b", "c"]


class Judge:
    """Remembers what it was asked, and fails at what it is told to."""

    def __init__(self, fails) -> None:
        self.fails, self.asked = fails, []

    def __call__(self, images, of):
        self.asked.append((images[:, 0, 0, 0].tolist(), list(of)))
        if self.fails(of):
            raise KeyError(of[0])
        return [name.upper() for name in of]


def run(judge, *, stops=False, freed=lambda error: None):
    found, failed = run_metric(judge, IMAGES, PICTURES, stops=stops, freed=freed)
    return found, [list(each.of) for each in failed]


def test_what_succeeds_together_is_asked_once():
    judge = Judge(lambda of: False)
    assert run(judge) == ([["A", "B", "C"]], [])
    assert judge.asked == [([0, 1, 2], PICTURES)]


def test_what_fails_together_is_asked_one_by_one_with_its_picture():
    judge = Judge(lambda of: "b" in of)
    found, (failed,) = run_metric(judge, IMAGES, PICTURES, stops=False)
    assert found == [["A"], ["C"]]
    assert failed.of == ["b"] and isinstance(failed.error, KeyError)
    assert judge.asked == [([0, 1, 2], PICTURES), ([0], ["a"]), ([1], ["b"]), ([2], ["c"])]


def test_nothing_is_asked_after_the_failure_that_stops():
    judge = Judge(lambda of: True)
    assert run(judge, stops=True) == ([], [["a"]])
    assert len(judge.asked) == 2


def test_a_failure_that_is_let_go_of_holds_nothing_while_the_next_is_asked():
    held = []

    class Large:
        pass

    def judge(images, of):
        large = Large()
        assert all(reference() is None for reference in held)
        held.append(weakref.ref(large))
        raise RuntimeError("no room")

    _, failed = run_metric(judge, IMAGES, PICTURES, stops=False, freed=clear_frames)
    assert len(held) == 4 and all(isinstance(each.error, RuntimeError) for each in failed)


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_who_stops_the_program_stops_it(error):
    def judge(images, of):
        raise error

    with pytest.raises(error):
        run(judge)


@pytest.mark.parametrize(
    ("found", "message"),
    [
        (None, "must return one number per picture.*, got None"),
        ([0.5, 0.5], r"must return one number per picture.*, got the list \[0.5, 0.5\]"),
        (
            {1: torch.ones(2)},
            "must name its columns by printable texts of at most 200 characters, got the int 1",
        ),
        ({"x": [0.5, 0.5]}, r"`x` must return one number per picture, shape \(2,\), got the list"),
        (torch.ones(3), r"one number per picture, shape \(2,\), got shape \(3,\)"),
        ({"x": torch.ones(2, 1)}, r"`x` must return one number per picture, shape \(2,\)"),
        (
            {"x": torch.ones(3)},
            r"got shape \(3,\) of float32; the first .* is 'a'",
        ),
        (
            {"x": torch.tensor([0, torch.inf])},
            "in `m.x`, got inf; at the prompt 'b'",
        ),
        (
            {"x": torch.tensor([-torch.inf, 0])},
            "in `m.x`, got -inf; at the prompt 'a'",
        ),
    ],
)
def test_what_is_no_set_of_columns_is_refused(found, message):
    with pytest.raises(ComponentError, match=message):
        asked(found, lambda name: f"m.{name}")


def asked(found, called):
    return metric_columns(asked, lambda: found, ["a", "b"], label="mine", called=called)


def test_one_number_per_picture_is_a_column_of_the_label():
    assert list(asked(torch.ones(2), str)) == ["mine"]


def test_columns_are_named_and_may_say_nothing():
    found = asked({"x": torch.tensor([1.0, torch.nan])}, str.upper)
    assert list(found) == ["X"] and found["X"].dtype == torch.float64
    assert found["X"][0] == 1 and found["X"][1].isnan()


def test_the_first_names_decide_even_if_there_are_none():
    names = ColumnNames()
    assert names.first == [] and names.agree([]) and not names.agree(["a"])
    assert names.first == [] and names.agree([])


def refuses(*bad):
    """A metric that fails at some pictures, and where it is given several, one of them among."""

    def judge(images, names):
        if any(name in bad for name in names) or ("together" in bad and len(names) > 1):
            raise ValueError(f"at {names}")
        return list(names)

    return judge


def test_what_is_reported_are_all_failures_and_the_rest_is_judged():
    assert run(refuses(*""), stops=False) == ([["a", "b", "c"]], [])
    assert run(refuses(*"ac"), stops=False) == ([["b"]], [["a"], ["c"]])
    freed = []
    assert run(refuses("together"), stops=False, freed=freed.append) == (
        [["a"], ["b"], ["c"]],
        [["a", "b", "c"]],
    )
    assert len(freed) == 1


def test_who_stops_has_the_first_failure_alone():
    assert run(refuses(*"bc"), stops=True) == ([], [["b"]])
    assert run(refuses("together"), stops=True)[1] == [["a", "b", "c"]]


@pytest.mark.parametrize("stops", [True, False])
def test_where_memory_is_short_only_a_report_goes_on_one_by_one(stops):
    def short(images, names):
        if len(names) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return list(names)

    found, (failed,) = run_metric(short, torch.ones(2, 3, 2, 2), ["a", "b"], stops=stops)
    assert found == ([] if stops else [["a"], ["b"]]) and list(failed.of) == ["a", "b"]


def test_pictures_are_judged_in_batches_as_they_are_moved():
    pictures = OnDevice(torch.ones(3, 3, 2, 2), torch.device("cpu"))
    assert len(pictures) == 3 and pictures[1].shape == (3, 2, 2)
    found = columns_of_pictures(
        lambda images, prompts: {"bright": images.mean((1, 2, 3))},
        pictures,
        [HeldOutPrompt("a")] * 3,
        batch=2,
        label="mine",
    )
    assert found["bright"].tolist() == [1.0, 1.0, 1.0] and found["bright"].dtype == torch.float64
