"""Evaluations before, after and inside a run, and what failures of metrics say."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from statistics import fmean
from typing import Any, ClassVar

import attrs
import pytest
import torch
from torch import Tensor

from flowbp.component_errors import ComponentError
from flowbp.evaluation import (
    Comparison,
    Evaluation,
    HeldOutMeasure,
    HeldOutPrompt,
    Judge,
    Sampling,
    Scale,
    evaluate,
    from_json,
    generate,
    table,
    to_json,
)
from flowbp.evaluation.metrics import BaseDistance, PixelDistance

from .samples import FakeBackbone, mean_reward

PROMPTS = [HeldOutPrompt(text) for text in ("one", "two lines", "three")]


@attrs.define
class Shifted(FakeBackbone):
    """A model whose pictures become brighter as it is trained."""

    shift: float = 0.0

    def __attrs_post_init__(self) -> None:
        FakeBackbone.__init__(self)

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        return (latents + self.shift).sigmoid()


def measure(backbone: FakeBackbone, **metrics: Any) -> HeldOutMeasure:
    return HeldOutMeasure(
        backbone=backbone,
        reward=mean_reward,
        metrics=metrics,
        prompts=PROMPTS,
        sampling=Sampling(steps=2, height=4, width=4, batch=2),
    )


def distances() -> dict[str, Any]:
    means = BaseDistance(embedding=lambda images: images.mean((2, 3)) - 0.5, label="far")
    return {"far": means, "pixels": PixelDistance(label="pixels")}


def test_distances_are_from_the_pictures_of_the_first_evaluation():
    backbone = Shifted()
    figures = measure(backbone, **distances())
    assert figures()["far"] == figures()["pixels"] == (0, 0, 0)
    backbone.shift = 1.0
    once = figures()
    backbone.shift = 2.0
    assert 0 < fmean(once["pixels"]) < fmean(figures()["pixels"]) < 1 and fmean(once["far"]) > 0


def test_one_that_goes_on_compares_with_the_same():
    backbone = Shifted()
    figures, again = (measure(backbone, **distances()) for _ in range(2))
    figures()
    again.begin()
    backbone.shift = 1.0
    assert figures() == again() and fmean(again()["pixels"]) > 0


def test_without_such_metrics_nothing_is_sampled_twice():
    backbone = Shifted()
    measure(backbone).begin()
    assert backbone.sizes == []


def test_it_says_what_its_metrics_say_of_their_columns():
    scales = measure(Shifted(), **distances(), mine=lambda images, prompts: {}).scales
    assert scales == {"far": Scale(sign=0), "pixels": Scale(sign=0)}


@attrs.frozen
class Tasks:
    """A metric with a total, whose tasks judge only the prompts that are theirs."""

    tasks: tuple[str, ...]
    whole: str = "one"
    totals: ClassVar = {"overall": ("one", "four")}

    def __call__(self, images: torch.Tensor, prompts: Any) -> dict[str, torch.Tensor]:
        def of(task: str) -> torch.Tensor:
            return torch.tensor([1.0 if prompt.text == task else torch.nan for prompt in prompts])

        return {**({"all": of(self.whole)} if self.whole else {}), **{t: of(t) for t in self.tasks}}


def test_a_column_of_a_total_may_judge_nothing_of_what_is_held_out():
    found = measure(Shifted(), mine=Tasks(("one", "four")))()
    assert list(found) == ["reward", "all", "one"]


@pytest.mark.parametrize(
    "metric, column",
    [
        (Tasks(("one", "four", "five")), "five"),
        (Tasks(("one", "four"), whole="no"), "all"),
        (Tasks(("four",), whole=""), "four"),
    ],
    ids=["of no total", "the whole", "all of a total"],
)
def test_any_other_column_must_judge_something(metric, column):
    with pytest.raises(ValueError, match=f"'mine': `{column}` judges none of the 3 held-out pict"):
        measure(Shifted(), mine=metric)()


def failing(error: Exception, when: Callable[[Any], bool]) -> Callable[..., Any]:
    def metric(images: torch.Tensor, prompts: Any) -> dict[str, torch.Tensor]:
        if when(prompts):
            raise error
        return {"mine": images.mean((1, 2, 3))}

    return metric


FAILURES = {
    "any error, with its prompt": (
        failing(RuntimeError("no kernel"), lambda own: "two lines" in [p.text for p in own]),
        ["the metric `mine` (", "raised RuntimeError: no kernel", "at the prompt 'two lines'"],
    ),
    "pictures together": (
        failing(KeyError("pair"), lambda own: len(own) == 2),
        ["raised KeyError: 'pair'; each of these pictures alone", "prompts 'one', 'two lines'"],
    ),
    "no columns": (
        lambda images, prompts: None,
        ["the metric `mine` (", "columns by name, got None", "at the prompt 'one'"],
    ),
    "a column of another length": (
        lambda images, prompts: {"mine": images.mean().repeat(7)},
        ["`mine` must return one number per picture, shape (1,), got shape (7,)"],
    ),
    "other columns for another batch": (
        lambda images, prompts: {prompts[0].text: images.mean((1, 2, 3))},
        ["returned the columns one for one batch and three for another", "at the prompt 'three'"],
    ),
}


@pytest.mark.parametrize("metric, pieces", FAILURES.values(), ids=FAILURES)
def test_a_failure_names_metric_and_prompt(metric, pieces):
    with pytest.raises(ComponentError) as caught:
        measure(Shifted(), mine=metric)()
    assert all(piece in str(caught.value) for piece in pieces), str(caught.value)


def test_a_reward_of_ones_own_is_a_metric_by_its_label_and_reads_texts():
    def length(images, prompts):
        assert all(isinstance(prompt, str) for prompt in prompts)
        return torch.tensor([float(len(prompt)) for prompt in prompts])

    assert measure(Shifted(), long=length)()["long"] == (3.0, 9.0, 5.0)


def test_a_failure_of_a_metric_of_sets_names_it():
    def metric(model, base):
        raise AttributeError("no such thing")

    with pytest.raises(ComponentError, match=r"`mine` .* raised AttributeError: no such thing"):
        measure(Shifted(), mine=metric)()


def test_a_device_out_of_memory_stays_that_and_names_the_metric():
    metric = failing(torch.OutOfMemoryError("1 GiB"), lambda own: True)
    with pytest.raises(torch.OutOfMemoryError) as caught:
        measure(Shifted(), mine=metric)()
    assert caught.value.__notes__ == ["it was the metric 'mine', in an evaluation inside the run"]


OF_TWO_KINDS = [
    HeldOutPrompt("a circle", "single_object"),
    HeldOutPrompt("two blue squares", "counting"),
    HeldOutPrompt("three crosses", "counting"),
]
SAMPLING = Sampling(steps=2, height=4, width=4, batch=2)


def judge_length(images: Tensor, prompts: Sequence[str]) -> Tensor:
    return torch.tensor([float(len(prompt) > 8) for prompt in prompts])


def run(reward: object = mean_reward, judge: Judge | None = judge_length) -> Evaluation:
    return evaluate(
        FakeBackbone(), reward, judge, OF_TWO_KINDS, sampling=SAMPLING, noise_seed=4, label="before"
    )[0]


def test_rows_hold_what_reward_and_judge_said_of_the_generated_pictures() -> None:
    heard: list[tuple[int, int]] = []
    evaluation, images = evaluate(
        FakeBackbone(),
        mean_reward,
        judge_length,
        OF_TWO_KINDS,
        sampling=SAMPLING,
        noise_seed=4,
        label="before",
        progress=lambda done, total: heard.append((done, total)),
    )
    texts = [prompt.text for prompt in OF_TWO_KINDS]
    assert torch.equal(images, generate(FakeBackbone(), texts, 4, SAMPLING))
    assert [row.values["reward"] for row in evaluation.rows] == pytest.approx(
        mean_reward(images, texts).tolist()
    )
    assert [row.values["accuracy"] for row in evaluation.rows] == [0, 1, 1]
    assert [row.number for row in evaluation.rows] == [0, 1, 2]
    assert {row.kind for row in evaluation.rows} == {"single_object", "counting"}
    assert (evaluation.label, evaluation.noise_seed) == ("before", 4)
    assert evaluation.seconds > 0
    assert heard == [(2, 3), (3, 3)]


def test_without_a_judge_no_row_has_a_verdict() -> None:
    found = run(judge=None)
    assert not found.judged and list(found.rows[0].values) == ["reward"]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_score_that_is_not_finite_names_its_prompt(value: float) -> None:
    def broken(images: Tensor, prompts: Sequence[str]) -> Tensor:
        return torch.tensor([value if prompt == "three crosses" else 0.5 for prompt in prompts])

    with pytest.raises(ComponentError, match=f"got {value}.* at the prompt 'three crosses'"):
        run(broken)


def test_a_judge_may_give_any_number_and_only_verdicts_are_in_percent() -> None:
    def graded(images: Tensor, prompts: Sequence[str]) -> Tensor:
        return torch.tensor([float(len(prompt)) for prompt in prompts])

    found = run(judge=graded)
    assert [row.values["accuracy"] for row in found.rows] == [len(p.text) for p in OF_TWO_KINDS]
    graded_twice = Comparison(found, found)
    assert from_json(to_json(graded_twice)) == graded_twice
    assert "%" not in table(graded_twice).split("95 %")[0]
    verdicts = run()
    assert "66.7 % → 66.7 %" in table(Comparison(verdicts, verdicts))


def test_a_judgement_that_is_not_finite_names_its_prompt() -> None:
    def broken(images: Tensor, prompts: Sequence[str]) -> Tensor:
        return torch.tensor([torch.nan if prompt == "a circle" else 1.0 for prompt in prompts])

    with pytest.raises(ComponentError, match=r"judge .* finite numbers, got nan.* 'a circle'"):
        run(judge=broken)


def test_a_score_of_the_wrong_shape_is_an_error() -> None:
    with pytest.raises(ComponentError, match=r"reward .* shape \(2,\), got shape \(2, 1\)"):
        run(lambda images, prompts: torch.zeros(len(prompts), 1))


def test_scoring_keeps_no_gradient() -> None:
    weight = torch.ones((), requires_grad=True)

    def scored(images: Tensor, prompts: Sequence[str]) -> Tensor:
        scores = weight * images.mean((1, 2, 3))
        assert not scores.requires_grad
        return scores

    run(scored)
