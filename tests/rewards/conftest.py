"""A tiny random CLIP model, built once and saved once."""

from __future__ import annotations

import pytest
import torch
from transformers import CLIPConfig, CLIPModel

from ..adapters.tiny import CLIP_LENGTH, clip_tokenizer

IMAGE_SIZE = 16


@pytest.fixture(scope="session")
def tokenizer():
    return clip_tokenizer()


@pytest.fixture(scope="session")
def model(tokenizer):
    sizes = dict(hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2)
    text = dict(
        vocab_size=len(tokenizer),
        max_position_embeddings=CLIP_LENGTH,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **sizes,
    )
    vision = dict(image_size=IMAGE_SIZE, patch_size=4, **sizes)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        config = CLIPConfig(text_config=text, vision_config=vision, projection_dim=8)
        # The usual initialisation is so small that every picture gets nearly the same score.
        config.vision_config.initializer_factor = 4.0
        return CLIPModel(config).eval()


@pytest.fixture(scope="session")
def folder(model, tokenizer, tmp_path_factory):
    """The model and its tokenizer in CLIPModel layout, without preprocessor_config.json."""
    path = tmp_path_factory.mktemp("clip")
    model.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


@pytest.fixture
def images():
    generator = torch.Generator().manual_seed(0)
    return torch.rand(3, 3, IMAGE_SIZE, IMAGE_SIZE, generator=generator)
