"""From trained modules to the folders that diffusers and transformers load."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from flowbp.adapters.pipeline_files import save_pipeline
from flowbp.rewards.pixels import CLIP_MEAN, CLIP_STD
from tools.shapes.base import BaseModel

SHIFT = 1.5
"""The scheduler's timestep shift. Of 0.6, 1, 1.5, 2 and 3 it left an earlier base model the most
whole shapes at 10 steps, and nearly the best accuracy."""


def save_tokenizer(tokenizer: Any, folder: Path) -> None:
    """Save a tokenizer for transformers 5 and, with vocabulary and merges apart, for 4."""
    tokenizer.save_pretrained(folder)
    model = json.loads((folder / "tokenizer.json").read_text())["model"]
    pairs = [" ".join(pair) if isinstance(pair, list) else pair for pair in model["merges"]]
    (folder / "vocab.json").write_text(json.dumps(model["vocab"]))
    (folder / "merges.txt").write_text("\n".join(["#version: 0.2", *pairs, ""]))


def save_base(base: BaseModel, vae: Any, tokenizer: Any, folder: Path) -> None:
    """Save a complete `StableDiffusion3Pipeline` whose T5 is silent.

    Transformer and autoencoder are stored in half precision, which diffusers widens when it
    loads them; the text encoders stay in single precision, because transformers would not.
    """
    from diffusers import FlowMatchEulerDiscreteScheduler, StableDiffusion3Pipeline

    width = base.transformer.config.joint_attention_dim
    tokenizer_3 = _letters()
    pipeline: Any = StableDiffusion3Pipeline(
        transformer=base.transformer.to("cpu", torch.float16),
        vae=vae.to("cpu", torch.float16),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=SHIFT),
        text_encoder=base.text_encoder.cpu(),
        text_encoder_2=base.text_encoder_2.cpu(),
        text_encoder_3=_silent_t5(tokenizer_3, width),
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        tokenizer_3=tokenizer_3,
    )
    save_pipeline(pipeline, folder)
    for name in ("tokenizer", "tokenizer_2"):
        save_tokenizer(tokenizer, folder / name)


def _letters() -> Any:
    from string import ascii_lowercase

    from transformers import T5TokenizerFast

    vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    vocabulary += [(letter, -3.0) for letter in ascii_lowercase]
    return T5TokenizerFast(vocab=vocabulary, extra_ids=0, model_max_length=512)


def _silent_t5(tokenizer: Any, width: int) -> Any:
    """A T5 encoder whose output is exactly zero, as the conditioning is without one.

    The pipeline class refuses a folder that has no T5.
    """
    from transformers import T5Config, T5EncoderModel

    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=width,
        d_kv=4,
        d_ff=4,
        num_layers=1,
        num_heads=1,
        pad_token_id=0,
        eos_token_id=1,
    )
    encoder = T5EncoderModel(config)
    torch.nn.init.zeros_(encoder.encoder.final_layer_norm.weight)
    return encoder


def save_reward(model: Any, tokenizer: Any, folder: Path) -> None:
    """Save a `CLIPModel` in half precision, with its tokenizer and CLIP's mean and deviation."""
    model.to("cpu", torch.float16).save_pretrained(folder)
    save_tokenizer(tokenizer, folder)
    preprocessing = {
        "image_mean": CLIP_MEAN,
        "image_std": CLIP_STD,
        "size": {"shortest_edge": 64},
        "crop_size": {"height": 64, "width": 64},
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessing, indent=2))
