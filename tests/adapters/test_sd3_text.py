"""The text side of SD3: lengths, warnings, refusals."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch

from flowbp.adapters import SD3Backbone

from .tiny import CLIP_LENGTH, tiny_transformer


def build(pipeline, **changed):
    pipeline = deepcopy(pipeline)
    text_length = changed.pop("text_length", 16)
    for name, value in changed.items():
        setattr(pipeline, name, value)
    return SD3Backbone.from_pipeline(pipeline, text_length=text_length)


def test_without_t5_no_position_of_it_is_needed(pipeline):
    short = build(pipeline, text_length=0).encode(["red"]).tensors["tokens"]
    long = build(pipeline, text_length=5).encode(["red"]).tensors["tokens"]
    assert short.shape == (1, CLIP_LENGTH, 32)
    assert torch.equal(long[:, :CLIP_LENGTH], short)
    assert not long[:, CLIP_LENGTH:].any()


def test_the_encoding_carries_no_gradient(pipelines):
    tensors = build(pipelines(True)).encode(["red"]).tensors
    assert not any(tensor.requires_grad for tensor in tensors.values())


@pytest.mark.parametrize(
    ("t5", "prompt", "message"),
    [
        (False, "many red circles", "a prompt has 16 tokens and only the first 12 are read"),
        (True, "many many red circles", "a prompt has 23 tokens and only the first 16 are read"),
    ],
)
def test_a_cut_prompt_is_reported(pipelines, t5, prompt, message):
    with pytest.warns(UserWarning, match=message):
        build(pipelines(t5)).encode([prompt])


def test_a_prompt_that_the_t5_reads_whole_is_not_reported(pipelines, recwarn):
    build(pipelines(True)).encode(["many red box"])
    assert not recwarn.list


@pytest.mark.parametrize(
    ("t5", "length", "message"),
    [
        (False, -1, r"`text_length` must be in \[0, 512\], got -1"),
        (True, 0, r"`text_length` must be in \[1, 512\] with a T5, got 0"),
        (False, 513, r"`text_length` must be in \[0, 512\], got 513"),
    ],
)
def test_illegal_text_lengths_are_refused(pipelines, t5, length, message):
    with pytest.raises(ValueError, match=message):
        build(pipelines(t5), text_length=length)


@pytest.mark.parametrize("prompts", ["red", []])
def test_prompts_must_be_a_sequence_with_something_in_it(pipeline, prompts):
    with pytest.raises(ValueError, match=r"`prompts` must be a sequence.*write \[prompt\]"):
        build(pipeline).encode(prompts)


@pytest.mark.parametrize(
    ("t5", "sizes", "message"),
    [
        (False, {"joint_attention_dim": 16}, "`width` must be at least 24.*got 16"),
        (False, {"pooled_projection_dim": 32}, "`pooled_width` must be 24.*got 32"),
        (True, {"joint_attention_dim": 40}, "`t5` must have d_model 40.*got 32"),
    ],
)
def test_encoders_of_another_model_are_refused(pipelines, t5, sizes, message):
    with pytest.raises(ValueError, match=message):
        build(pipelines(t5), transformer=tiny_transformer(**sizes))


def test_a_tokenizer_longer_than_its_encoder_is_refused(pipeline):
    tokenizer = deepcopy(pipeline.tokenizer)
    tokenizer.model_max_length = 77
    with pytest.raises(
        ValueError, match=r"`clip` has 12 positions.*model_max_length is 77; set it"
    ):
        build(pipeline, tokenizer=tokenizer)
