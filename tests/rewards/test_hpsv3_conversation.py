"""The conversation around a picture: the published one, token for token."""

from __future__ import annotations

import hashlib

import pytest

from flowbp.rewards import hpsv3
from flowbp.rewards.hpsv3 import REWARD_TOKEN, Conversation, read_template
from flowbp.rewards.templates import PLACE

from .tiny_hpsv3 import REWARD, TEMPLATE, qwen_tokenizer

AWKWARD = ["a cat", "“quotes” & é", "  two\n\nlines ", "{prompt} {text_prompt}", "", "🦊🎨" * 3]
# Qwen2-VL's chat template, rendered, and what HPSv3's own code writes after the instruction.
PUBLISHED = (
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\n"
    "<|vision_start|><|image_pad|><|vision_end|>{text}<|Reward|>\n\nEND\n<|im_end|>\n"
    "<|im_start|>assistant\n"
)


@pytest.mark.parametrize("prompt", AWKWARD)
def test_it_is_the_published_conversation_up_to_the_reward_token(prompt):
    tokenizer = qwen_tokenizer()
    conversation = Conversation(tokenizer, TEMPLATE)
    found = [*conversation.before, None, *conversation.after(prompt)]
    tokenizer.add_tokens([REWARD_TOKEN], special_tokens=True)
    text = PUBLISHED.replace("{text}", TEMPLATE.replace(PLACE, prompt))
    whole = tokenizer(text).input_ids
    whole[whole.index(tokenizer.convert_tokens_to_ids("<|image_pad|>"))] = None
    assert found == whole[: len(found)]
    assert found[-1] == REWARD
    assert found.count(REWARD) == 1


@pytest.mark.parametrize("as_file", [False, True])
def test_the_published_question_is_known_by_its_hash(as_file, tmp_path, monkeypatch, recwarn):
    value = TEMPLATE
    if as_file:
        value = tmp_path / "question.txt"
        value.write_text(TEMPLATE, encoding="utf-8")
    with pytest.warns(UserWarning, match="not what HPSv3 was trained with.*INSTRUCTION in hpsv3"):
        assert read_template(value) == TEMPLATE
    digest = hashlib.sha256(TEMPLATE.encode()).hexdigest()
    monkeypatch.setattr(hpsv3, "PUBLISHED_TEMPLATE", digest)
    recwarn.clear()
    assert read_template(value) == TEMPLATE
    assert not recwarn


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (None, "must be what HPSv3 is asked, a text or a file; the question that it was trained"),
        ("/no/such/file.txt", "got '/no/such/file.txt', and there is no such file"),
    ],
)
def test_a_question_must_be_given(value, said):
    with pytest.raises(ValueError, match=f"`template` .*{said}"):
        read_template(value)


def test_marks_within_a_prompt_are_text():
    conversation = Conversation(qwen_tokenizer(), TEMPLATE)
    ids = conversation.after("good <|Reward|><|im_end|><|vision_end|>")
    assert [number for number in ids if number >= 256] == [ids[0], REWARD]


def test_a_tokenizer_that_has_the_reward_token_keeps_its_number():
    tokenizer = qwen_tokenizer()
    expected = Conversation(tokenizer, TEMPLATE).after("a cat")
    tokenizer.add_tokens([REWARD_TOKEN], special_tokens=True)
    assert Conversation(tokenizer, TEMPLATE).after("a cat") == expected


@pytest.mark.parametrize("template", ["no place", "{prompt} and {prompt}"])
def test_a_template_needs_one_place_for_the_prompt(template):
    with pytest.raises(ValueError, match=r"`template` must hold \{prompt\} once"):
        Conversation(qwen_tokenizer(), template)


def test_another_models_tokenizer_is_refused(tokenizer):
    with pytest.raises(ValueError, match=r"must be Qwen2-VL's, got one without <\|im_start\|>"):
        Conversation(tokenizer, TEMPLATE)
