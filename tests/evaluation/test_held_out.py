from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from flowbp.component_errors import ComponentError
from flowbp.evaluation import Evaluation, HeldOutPrompt, Judge, Sampling, evaluate, generate

from .samples import FakeBackbone, mean_reward

PROMPTS = [
    HeldOutPrompt("a circle", "single_object"),
    HeldOutPrompt("two blue squares", "counting"),
    HeldOutPrompt("three crosses", "counting"),
]
SAMPLING = Sampling(steps=2, height=4, width=4, batch=2)


def judge_length(images: Tensor, prompts: Sequence[str]) -> Tensor:
    return torch.tensor([float(len(prompt) > 8) for prompt in prompts])


def run(reward: object = mean_reward, judge: Judge | None = judge_length) -> Evaluation:
    return evaluate(
        FakeBackbone(), reward, judge, PROMPTS, sampling=SAMPLING, noise_seed=4, label="before"
    )[0]


def test_rows_hold_what_reward_and_judge_said_of_the_generated_pictures() -> None:
    told: list[tuple[int, int]] = []
    evaluation, images = evaluate(
        FakeBackbone(),
        mean_reward,
        judge_length,
        PROMPTS,
        sampling=SAMPLING,
        noise_seed=4,
        label="before",
        progress=lambda done, total: told.append((done, total)),
    )
    texts = [prompt.text for prompt in PROMPTS]
    assert torch.equal(images, generate(FakeBackbone(), texts, 4, SAMPLING))
    assert [row.values["reward"] for row in evaluation.rows] == pytest.approx(
        mean_reward(images, texts).tolist()
    )
    assert [row.values["accuracy"] for row in evaluation.rows] == [0, 1, 1]
    assert [row.number for row in evaluation.rows] == [0, 1, 2]
    assert {row.kind for row in evaluation.rows} == {"single_object", "counting"}
    assert (evaluation.label, evaluation.noise_seed) == ("before", 4)
    assert evaluation.seconds > 0
    assert told == [(2, 3), (3, 3)]


def test_without_a_judge_no_row_has_a_verdict() -> None:
    found = run(judge=None)
    assert not found.judged and list(found.rows[0].values) == ["reward"]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_score_that_is_not_finite_names_its_prompt(value: float) -> None:
    def broken(images: Tensor, prompts: Sequence[str]) -> Tensor:
        return torch.tensor([value if prompt == "three crosses" else 0.5 for prompt in prompts])

    with pytest.raises(ComponentError, match=f"got {value}.* at the prompt 'three crosses'"):
        run(broken)


def test_a_verdict_between_pass_and_fail_names_its_prompt() -> None:
    def graded(images: Tensor, prompts: Sequence[str]) -> Tensor:
        return torch.full((len(prompts),), 0.5)

    with pytest.raises(ComponentError, match=r"judge .* got 0\.5.*threshold.* 'a circle'"):
        run(judge=graded)


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
