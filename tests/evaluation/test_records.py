from __future__ import annotations

import json

import attrs
import pytest

from flowbp.evaluation import Comparison, Evaluation, Record, from_json, to_json

from .samples import comparison

REWARDS = [(0.25, 0.5), (0.1 + 0.2, 1 / 3), (0.5, 0.125)]
VERDICTS = [(False, True), (True, True), (True, False)]
ODD = ['a "circle"', "zwölf Kreise ☃", "<script>"]


@pytest.mark.parametrize("verdicts", [VERDICTS, None])
def test_json_round_trip_is_exact(verdicts: list[tuple[bool, bool]] | None) -> None:
    value = comparison(REWARDS, verdicts, prompts=ODD, kinds=["counting", "position"])
    assert from_json(to_json(value)) == value
    assert to_json(from_json(to_json(value))) == to_json(value)


def test_json_keys_are_stable() -> None:
    tree = json.loads(to_json(comparison(REWARDS, VERDICTS)))
    assert list(tree) == ["format", "summary", "before", "after"]
    assert list(tree["summary"]) == ["kinds", "overall", "parts"]
    assert list(tree["summary"]["overall"]) == ["name", "count", "reward", "accuracy"]
    assert list(tree["before"]) == ["label", "noise_seed", "seconds", "records"]
    assert list(tree["before"]["records"][0]) == [
        "index",
        "prompt",
        "kind",
        "reward",
        "passed",
        "parts",
    ]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tree: tree.update(format=2), "object of format 1, got 2"),
        (lambda tree: tree.pop("after"), "after"),
        (lambda tree: tree["after"].update(speed=1), "speed"),
        (lambda tree: tree["before"]["records"][0].update(passed="no"), "passed"),
        (lambda tree: tree["before"]["records"][1].update(prompt="other"), "differ"),
        (lambda tree: tree.update(before=None), "comparison"),
    ],
)
def test_json_of_another_kind_is_refused(change: object, message: str) -> None:
    tree = json.loads(to_json(comparison(REWARDS, VERDICTS)))
    change(tree)
    with pytest.raises(ValueError, match=message):
        from_json(json.dumps(tree))


@pytest.mark.parametrize("text", ["{", "[]", "3"])
def test_text_that_is_no_such_json_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="`text`"):
        from_json(text)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"noise_seed": 9}, "`noise_seed` is 3 before and 9 after"),
        ({"records": comparison(REWARDS).after.records}, "`judged` is True before and False"),
        ({"records": comparison(REWARDS[:2], VERDICTS).after.records}, "are 3 before and 2 after"),
        (
            {"records": comparison(REWARDS, VERDICTS, prompts=["a cross"]).after.records},
            "'a circle', 'single_object'.* before, .*'a cross'",
        ),
    ],
)
def test_evaluations_that_cannot_be_paired_are_refused(
    change: dict[str, object], message: str
) -> None:
    value = comparison(REWARDS, VERDICTS)
    with pytest.raises(ValueError, match=message):
        Comparison(value.before, attrs.evolve(value.after, **change))


def test_an_evaluation_is_judged_wholly_or_not_at_all() -> None:
    judged = Record(index=0, prompt="a circle", kind="k", reward=0.5, passed=True)
    unjudged = Record(index=1, prompt="a cross", kind="k", reward=0.5)
    with pytest.raises(ValueError, match="1 of 2 prompts without a verdict, the first being 'a cr"):
        Evaluation(label="before", noise_seed=0, seconds=1, records=[judged, unjudged])
    with pytest.raises(ValueError, match="`records` must not be empty"):
        Evaluation(label="before", noise_seed=0, seconds=1, records=[])


def test_a_reward_that_is_not_finite_is_refused() -> None:
    with pytest.raises(ValueError, match="`reward` must be a finite number, got nan"):
        Record(index=0, prompt="a circle", kind="k", reward=float("nan"))
