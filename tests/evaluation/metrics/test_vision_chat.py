"""Greedy answers of tiny models of the real classes against logits taken word by word."""

from __future__ import annotations

import json
from copy import deepcopy

import pytest
import torch
from torch.nn import functional as F
from transformers import (
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
)

from flowbp.adapters import DtypePolicy
from flowbp.evaluation import HeldOutPrompt
from flowbp.evaluation.metrics import UnifiedReward
from flowbp.evaluation.metrics.unified_reward import UnreadableAnswer
from flowbp.evaluation.metrics.vision_chat import budget, load_vision_chat
from flowbp.rewards import Towers
from flowbp.rewards.pixels import CLIP_MEAN, CLIP_STD

from ...rewards.tiny_hpsv3 import SPECIAL, qwen_tokenizer

FLOAT64 = DtypePolicy(torch.float64, torch.float64)
TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n"
    "{% for part in message.content %}{% if part.type == 'image' %}"
    "<|vision_start|><|image_pad|><|vision_end|>{% else %}{{ part.text }}{% endif %}{% endfor %}"
    "<|im_end|>\n{% endfor %}{{ '<|im_start|>assistant\n' }}"
)
TEXT = dict(
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
    max_position_embeddings=4096,
)
QUESTIONS = ["How good?", "How good is a picture of two dogs?"]


def special(name):
    return 256 + SPECIAL.index(name)


def qwen25():
    vision = dict(
        depth=2, hidden_size=16, intermediate_size=16, num_heads=2, out_hidden_size=32,
        fullatt_block_indexes=[1],
    )  # fmt: skip
    text = TEXT | dict(rope_scaling=dict(type="mrope", mrope_section=[2, 3, 3]))
    return Qwen2_5_VLForConditionalGeneration, Qwen2_5_VLConfig, vision, text


def qwen3():
    vision = dict(
        depth=2, hidden_size=16, intermediate_size=16, num_heads=2, out_hidden_size=32,
        deepstack_visual_indexes=[0], num_position_embeddings=16,
    )  # fmt: skip
    text = TEXT | dict(
        head_dim=16,
        rope_scaling=dict(rope_type="default", mrope_interleaved=True, mrope_section=[4, 2, 2]),
    )
    return Qwen3VLForConditionalGeneration, Qwen3VLConfig, vision, text


def save(folder, family):
    kind, config, vision, text = family()
    tokenizer = qwen_tokenizer()
    tokenizer.chat_template = TEMPLATE
    tokenizer.save_pretrained(folder)
    numbers = dict(
        image_token_id=special("<|image_pad|>"),
        vision_start_token_id=special("<|vision_start|>"),
        vision_end_token_id=special("<|vision_end|>"),
        video_token_id=len(tokenizer) + 1,
    )
    text = text | dict(
        vocab_size=len(tokenizer) + 2, bos_token_id=None, eos_token_id=special("<|im_end|>")
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = kind(config(vision_config=vision, text_config=deepcopy(text), **numbers)).eval()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "norm" not in name and parameter.ndim > 1:
                    parameter.normal_(std=0.3)
            # It would say marks of pictures, which no trained model does.
            model.lm_head.weight[special("<|vision_start|>") :] = 0
    # As published: draws, which a judge must not.
    model.generation_config.update(do_sample=True, temperature=0.1, top_p=0.9, top_k=5)
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module", params=[qwen25, qwen3], ids=["qwen2.5", "qwen3"])
def folder(request, tmp_path_factory):
    return save(tmp_path_factory.mktemp("chat"), request.param)


def chat(folder, **settings):
    usual = dict(tokens=8, policy=FLOAT64, towers=Towers())
    return load_vision_chat(folder, **(usual | settings))


def pictures(count=2, height=60, width=90):
    generator = torch.Generator().manual_seed(0)
    return torch.rand(count, 3, height, width, generator=generator, dtype=torch.float64)


def cut_by_hand(image, vision, size):
    """The published order of patches, one patch at a time."""
    image = F.interpolate(image[None], size, mode="bicubic", antialias=True)[0]
    mean, std = (torch.tensor(v, dtype=image.dtype)[:, None, None] for v in (CLIP_MEAN, CLIP_STD))
    image, patch = (image - mean) / std, vision.patch_size
    rows, columns = size[0] // patch, size[1] // patch
    flat = []
    for row, column in [(r, c) for r in range(0, rows, 2) for c in range(0, columns, 2)]:
        for y, x in [(row, column), (row, column + 1), (row + 1, column), (row + 1, column + 1)]:
            one = image[:, y * patch : (y + 1) * patch, x * patch : (x + 1) * patch]
            flat.append(one[:, None].expand(-1, vision.temporal_patch_size, -1, -1).flatten())
    return torch.stack(flat), torch.tensor([[1, rows, columns]])


@torch.no_grad()
def word_by_word(chat, image, question):
    """All of the conversation anew for every word, and the likeliest one: no cache, no generate."""
    model, vision = chat.model, chat.model.config.vision_config
    side = 2 * vision.patch_size
    size = tuple(round(length / side) * side for length in image.shape[-2:])
    flat, grid = cut_by_hand(image, vision, size)
    pad = special("<|image_pad|>")
    text = "<|im_start|>user\n<|vision_start|>{}<|vision_end|>" + question
    text += "<|im_end|>\n<|im_start|>assistant\n"
    text = text.format("<|image_pad|>" * (len(flat) // 4))
    ids = chat.tokenizer(text, add_special_tokens=False, return_tensors="pt").input_ids
    said = []
    for _ in range(chat.tokens):
        model.model.rope_deltas = None
        logits = model(
            input_ids=ids,
            pixel_values=flat,
            image_grid_thw=grid,
            mm_token_type_ids=ids.eq(pad).int(),
            use_cache=False,
        ).logits
        said.append(int(logits[0, -1].argmax()))
        if said[-1] == special("<|im_end|>"):
            break
        ids = torch.cat([ids, torch.tensor([[said[-1]]])], 1)
    return chat.tokenizer.decode(said, skip_special_tokens=True)


def test_answers_are_the_likeliest_words(folder):
    asked = chat(folder)
    answers = asked(pictures(), QUESTIONS)
    assert list(answers) == [
        word_by_word(asked, image, question)
        for image, question in zip(pictures(), QUESTIONS, strict=True)
    ]
    assert answers[0] != answers[1]
    assert asked(pictures(), QUESTIONS) == answers


def test_a_batch_answers_as_one_does(folder):
    assert chat(folder, batch=2)(pictures(), QUESTIONS) == chat(folder)(pictures(), QUESTIONS)


def test_marks_in_a_question_are_text(folder):
    asked = chat(folder).conversation
    ids = asked.tokens("a <|im_end|> and <|image_pad|>", parts=3)
    assert ids.count(special("<|image_pad|>")) == 3
    assert ids.count(special("<|im_end|>")) == 1


def test_what_it_says_without_a_score_is_a_failure(folder):
    judge = UnifiedReward(
        source=folder, question="How good is {prompt}?", tokens=4, towers=Towers(), policy=FLOAT64
    )
    with pytest.raises(UnreadableAnswer, match="the judge's answer for 'a dog' cannot be read"):
        judge(pictures(1), [HeldOutPrompt("a dog")])


@pytest.mark.parametrize(
    ("height", "width", "size"),
    [(512, 512, (504, 504)), (28, 28, (56, 56)), (20, 300, (28, 308)), (5000, 5000, (3584, 3584))],
)
def test_pictures_keep_their_size_within_the_limits(height, width, size):
    pixels = budget(height, width, side=28)
    assert pixels == size[0] * size[1]


def test_models_of_other_kinds_are_refused(folder, tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no folder"):
        load_vision_chat(tmp_path / "absent")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llava"}))
    with pytest.raises(ValueError, match=r"must hold a model of type qwen2_vl or .*'llava'"):
        load_vision_chat(tmp_path)
    (tmp_path / "config.json").write_text((folder / "config.json").read_text())
    with pytest.raises(FileNotFoundError, match="holds neither tokenizer"):
        load_vision_chat(tmp_path)
    tokenizer = qwen_tokenizer()
    tokenizer.save_pretrained(tmp_path)
    model = chat(folder).model
    model.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="`tokenizer` must have a chat template, got none"):
        load_vision_chat(tmp_path, policy=FLOAT64, towers=Towers())
    tokenizer.chat_template = "{{ messages[0].content[1].text }}"
    tokenizer.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="with one picture before the question"):
        load_vision_chat(tmp_path, policy=FLOAT64, towers=Towers())
    with pytest.raises(ValueError, match="`tokens` must be an integer >= 1, got 0"):
        chat(folder, tokens=0)
