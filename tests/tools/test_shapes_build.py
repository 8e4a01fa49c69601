"""The build script runs end to end, and what it writes loads in plain diffusers."""

from __future__ import annotations

import json

import attrs
import pytest
import torch
from diffusers import StableDiffusion3Pipeline

from flowbp.shapes import VOCABULARY, parse, training_prompts
from flowbp.shapes.prompts import PROMPT_KINDS
from flowbp.shapes.scene import COLOURS, KINDS
from tools.shapes import __main__ as build
from tools.shapes import graded_corpus
from tools.shapes.corpus import build_corpus, draw_prompts
from tools.shapes.export import save_base
from tools.shapes.flaws import Flawed
from tools.shapes.graded_corpus import build_graded_corpus
from tools.shapes.recipe import Recipe
from tools.shapes.tokens import LENGTH, build_tokenizer

TINY = attrs.evolve(
    Recipe(),
    vae_pictures=12,
    pictures=12,
    pairs=12,
    vae_steps=2,
    base_steps=2,
    reward_steps=2,
    vae_batch=4,
    base_batch=6,
    reward_batch=8,
)


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("built")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(build, "Recipe", lambda seed: attrs.evolve(TINY, seed=seed))
        patch.setattr("tools.shapes.measure.SAMPLERS", ((2, 1.0, 1), (2, 3.0, 1)))
        build.main([str(folder), "--device", "cpu", "--count", "64"])
    return folder


def test_a_plain_pipeline_loads_and_runs_what_was_built(built):
    pipeline = StableDiffusion3Pipeline.from_pretrained(built / "base")
    pipeline.set_progress_bar_config(disable=True)
    image = pipeline("two blue squares", num_inference_steps=2, height=64, width=64).images[0]
    assert image.size == (64, 64)


def test_a_loaded_part_is_saved_without_its_path(built, tmp_path):
    parts = StableDiffusion3Pipeline.from_pretrained(built / "base")
    save_base(parts, parts.vae, parts.tokenizer, tmp_path)
    texts = [path.read_text() for path in tmp_path.rglob("*.json")]
    assert texts and not any("_name_or_path" in text or str(built) in text for text in texts)


def test_the_silent_t5_is_exactly_zero(built):
    pipeline = StableDiffusion3Pipeline.from_pretrained(built / "base")
    tokens = pipeline.tokenizer_3("two blue squares", return_tensors="pt").input_ids
    assert pipeline.text_encoder_3(tokens)[0].abs().max() == 0


def test_figures_are_recorded_for_every_kind_and_sampler(built):
    figures = json.loads((built / "figures.json").read_text())
    assert [each["guidance"] for each in figures["base"]] == [1.0, 3.0]
    assert set(figures["base"][0]["by_kind"]) == set(PROMPT_KINDS)
    assert 0 <= figures["reward"]["prefers_right_picture"] <= 1
    assert figures["checker"]["rendered"] == 1


def test_every_word_is_one_token():
    tokenizer = build_tokenizer()
    for word in VOCABULARY:
        assert len(tokenizer(word).input_ids) == 3
    longest = max((prompt.text for prompt in training_prompts()), key=lambda text: text.count(" "))
    assert len(tokenizer(longest).input_ids) == LENGTH


def test_the_corpus_is_a_function_of_its_seed():
    tokenizer, device = build_tokenizer(), torch.device("cpu")
    one, same = (build_corpus(TINY, tokenizer, device) for _ in range(2))
    other = build_corpus(attrs.evolve(TINY, seed=1), tokenizer, device)
    for name in ("pictures", "tokens"):
        assert torch.equal(getattr(one, name), getattr(same, name)), name
    assert not torch.equal(one.pictures, other.pictures)
    right, wrong = one.tokens[:, :1], one.tokens[:, 1:]
    assert (right != wrong).any(dim=-1).all(), "a wrong caption equals the right one"


def test_the_graded_corpus_is_a_function_of_its_seed():
    tokenizer, device = build_tokenizer(), torch.device("cpu")
    one, same = (build_graded_corpus(TINY, tokenizer, device) for _ in range(2))
    other = build_graded_corpus(attrs.evolve(TINY, seed=1), tokenizer, device)
    for name in attrs.fields_dict(type(one)):
        assert torch.equal(getattr(one, name), getattr(same, name)), name
    assert not torch.equal(one.right, other.right)
    assert (one.right != one.flawed).flatten(1).any(dim=1).all()


def test_near_misses_of_the_caption_are_wrong_unless_the_flawed_picture_shows_them():
    tokenizer = build_tokenizer()
    corpus = build_graded_corpus(attrs.evolve(TINY, pairs=140), tokenizer, torch.device("cpu"))
    texts = [tokenizer.batch_decode(row, skip_special_tokens=True) for row in corpus.tokens]
    opposite = shown = 0
    for (text, called, near, *_), wrong in zip(texts, corpus.wrong[:, 0].tolist(), strict=True):
        prompt, miss = parse(text), parse(near)
        assert miss != prompt and miss.template == prompt.template
        if called == near != text:
            shown += 1
            assert not wrong
        elif prompt.kind == "position" and miss.relation != prompt.relation:
            opposite += 1
            assert wrong, (text, near)
    assert opposite >= 10 and shown >= 5


def test_a_blended_flaw_is_drawn_between_its_two_scenes(monkeypatch):
    def blended(scene, prompt, generator):
        shapes = tuple(attrs.evolve(shape, colour="red") for shape in scene.shapes)
        other = tuple(attrs.evolve(shape, colour="white") for shape in scene.shapes)
        ends = (attrs.evolve(scene, shapes=each) for each in (shapes, other))
        return Flawed(next(ends), score=0.35, blended=(next(ends), 0.5))

    monkeypatch.setattr(graded_corpus, "flawed", blended)
    corpus = build_graded_corpus(TINY, build_tokenizer(), torch.device("cpu"))
    red, white = (torch.tensor(COLOURS[name]) for name in ("red", "white"))
    brightest = corpus.flawed.amax(dim=(2, 3)) / 255
    torch.testing.assert_close(
        brightest, torch.lerp(red, white, 0.5).expand_as(brightest), atol=0.005, rtol=0
    )
    coloured = corpus.flawed_layouts.unflatten(1, (-1, 3))[:, len(KINDS) :, 0]
    colours = (coloured.unflatten(1, (len(KINDS), -1)) > 0).sum(-1)
    assert set(colours.flatten().tolist()) == {0, 2}


def test_prompts_are_drawn_evenly_over_the_kinds():
    drawn = draw_prompts(training_prompts(), 60, torch.Generator().manual_seed(0))
    assert all(sum(p.kind == kind for p in drawn) == 10 for kind in PROMPT_KINDS)
