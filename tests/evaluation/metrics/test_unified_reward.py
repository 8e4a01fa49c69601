"""The judge's question and the scores in its answers, from a generator that is told them."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flowbp.evaluation import HeldOutPrompt
from flowbp.evaluation.metrics import UnifiedReward
from flowbp.evaluation.metrics.unified_reward import (
    AskedMetric,
    UnreadableAnswer,
    final_score,
    read_question,
)

QUESTION = "How well does it show {prompt}? End with Final Score:"
PROMPTS = [HeldOutPrompt("a dog"), HeldOutPrompt("a cat, {prompt}")]


class Said:
    """Answers what it was given, and remembers what it was asked."""

    def __init__(self, *answers):
        self.answers, self.asked = answers, []

    def __call__(self, images, questions):
        self.asked += zip(images, questions, strict=True)
        return self.answers


@pytest.mark.parametrize(
    ("answer", "score"),
    [
        ("Final Score: 4", 4),
        ("Final Score:4.25", 4.25),
        ("final score: 1", 1),
        ("A dog.\n\n**Final Score:** 3.5", 3.5),
        ("**Final Score**: **2**", 2),
        ("Final Score: 5.", 5),
        ("Final Score: 5.0, because it is a dog", 5),
        ("Final Score: 4/5", 4),
        ("Final Score: 4.5 / 5.", 4.5),
        ("Final Score:\n3", 3),
        ("Alignment Score (1-5): 2\nFinal Score: 4\n", 4),
        ("Final Score: 4 - a fine dog", 4),
        ("Final Score: 4, as I say: Final Score: 4.0", 4),
    ],
)
def test_scores_are_read(answer, score):
    assert final_score(answer, prompt="a dog") == score


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ("", "it says no `Final Score:`"),
        ("A fine dog, 4 of 5.", "it says no `Final Score:`"),
        ("Score: 4", "it says no `Final Score:`"),
        ("Final Score 4", "it says no `Final Score:`"),
        ("Final Score:", "it says no number"),
        ("Final Score: high", "it says no number"),
        ("Final Score: 4-5", "it says no number"),
        ("Final Score: 4 - 5", "it says no number"),
        ("Final Score: 4.5.2", "it says no number"),
        ("Final Score: 4,5", "it says no number"),
        ("Final Score: 8/10", "it says no number"),
        ("Final Score: 4/50", "it says no number"),
        ("Final Score: 80%", "it says no number"),
        ("Final Score: 4th", "it says no number"),
        ("Final Score: 0", "0 is not from 1 to 5"),
        ("Final Score: 5.1", "5.1 is not from 1 to 5"),
        ("Final Score: -3", "-3 is not from 1 to 5"),
        ("Final Score: 45", "45 is not from 1 to 5"),
        ("Final Score: 3\nFinal Score: 4", "it says more than one"),
        ("Final Score: 3\nFinal Score: none", "it says more than one"),
    ],
)
def test_what_is_no_score_is_refused_with_the_answer(answer, why):
    with pytest.raises(UnreadableAnswer) as caught:
        final_score(answer, prompt="a dog")
    told = str(caught.value)
    assert "'a dog'" in told and why in told and told.endswith(repr(answer))
    assert caught.value.answer == answer


@given(st.integers(100, 500), st.sampled_from(["", " ", "\n", " **", "\n\n_"]), st.text())
def test_any_score_after_any_text_is_read(hundredths, between, text):
    before = text.replace(":", "")
    number = f"{hundredths / 100:.2f}"
    found = final_score(f"{before} Final Score:{between}{number}\nThat is all.", prompt="p")
    assert found == float(number)


def test_long_answers_are_quoted_from_both_ends():
    with pytest.raises(UnreadableAnswer, match=r"Well, .* … .* so it is") as caught:
        final_score("Well, " + "x" * 9000 + " so it is", prompt="a dog")
    assert len(str(caught.value)) < 1000


def test_each_picture_is_asked_about_with_its_prompt():
    said = Said("Final Score: 4", "Final Score: 2.5")
    judge = AskedMetric(QUESTION, said, "UnifiedReward")
    images = torch.rand(2, 3, 8, 8)
    assert judge(images, PROMPTS)["UnifiedReward"].tolist() == [4, 2.5]
    assert [question for _, question in said.asked] == [
        "How well does it show a dog? End with Final Score:",
        "How well does it show a cat, {prompt}? End with Final Score:",
    ]
    assert torch.equal(said.asked[1][0], images[1])


def test_an_answer_without_a_score_fails_and_names_its_prompt():
    judge = AskedMetric(QUESTION, Said("Final Score: 4", "I cannot say."), "judge")
    with pytest.raises(UnreadableAnswer, match=r"for 'a cat, {prompt}' .*'I cannot say\.'"):
        judge(torch.rand(2, 3, 8, 8), PROMPTS)


def test_the_question_is_the_users(tmp_path):
    path = tmp_path / "question.txt"
    path.write_text(QUESTION)
    assert read_question(path) == read_question(str(path)) == read_question(QUESTION) == QUESTION
    with pytest.raises(ValueError, match="`question` must be what UnifiedReward is asked"):
        UnifiedReward(source="owner/name")
    with pytest.raises(ValueError, match=r"`question` must be a text with {prompt} in it or a"):
        read_question("How good is it?")
    with pytest.raises(ValueError, match=r"and there is no such file; the question that it was"):
        read_question("How good\nis it?" * 1000)
    with pytest.raises(ValueError, match="there is no such file"):
        read_question("How good is it? " * 40)
    path.write_text("How good is it?")
    for asked in (path, "{prompt}, {prompt}"):
        with pytest.raises(ValueError, match=r"`question` must hold {prompt} once"):
            UnifiedReward(source="owner/name", question=asked)
    with pytest.raises(ValueError, match=r"`question` must hold {prompt} once"):
        AskedMetric("How good is it?", Said(), "judge")
