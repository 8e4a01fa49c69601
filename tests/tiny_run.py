"""Tiny saved models and the arguments of a run on them, for the tests of the command."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import CLIPConfig, CLIPModel

from .adapters.tiny import CLIP_LENGTH, clip_tokenizer, tiny_pipeline

CONFIGURATION = """
run: {{folder: {folder}, device: cpu, threads: 1}}
backbone: {{name: sd3, source: {models}/base, text_length: 4, use_t5: false}}
reward: {{name: clip, source: {models}/reward}}
prompts: {{name: shapes}}
method: {{name: bridge, active: 3}}
loss: {{name: linear}}
sampling: {{steps: 4, guidance: 1.0, height: 16, width: 16}}
batching: {{samples: 2}}
optimizer: {{name: adamw, learning_rate: 1e-3}}
training: {{steps: 2, averaging: null}}
observers: {{tensorboard: false}}
embeddings: {{folder: {folder}-embeddings}}
"""


def save_models(folder: Path) -> Path:
    """Save a tiny pipeline as `base` and a tiny CLIP model as `reward` into a folder."""
    tiny_pipeline(t5=False).save_pretrained(folder / "base")
    tokenizer = clip_tokenizer()
    sizes = dict(hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2)
    text = dict(
        vocab_size=len(tokenizer),
        max_position_embeddings=CLIP_LENGTH,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **sizes,
    )
    vision = dict(image_size=16, patch_size=4, **sizes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)
        config.vision_config.initializer_factor = 4.0
        CLIPModel(config).save_pretrained(folder / "reward")
    tokenizer.save_pretrained(folder / "reward")
    return folder


def write_configuration(folder: Path, models: Path) -> Path:
    """Write the YAML of a short run on those models, which goes to `folder/run`."""
    path = folder / "container.yaml"
    path.write_text(CONFIGURATION.format(folder=folder / "run", models=models))
    return path
