"""Tiny random Z-Image pipelines made of the real classes."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import (
    FlowMatchEulerDiscreteScheduler,
    ZImagePipeline,
    ZImageTransformer2DModel,
)

from .tiny import tiny_vae
from .tiny_flux import qwen_encoder, qwen_tokenizer, ready


def z_image_transformer(**changed: Any) -> ZImageTransformer2DModel:
    """A Z-Image transformer of two blocks, and of one block for each of its refiners."""
    sizes = dict(
        in_channels=4,
        dim=16,
        n_layers=2,
        n_refiner_layers=1,
        n_heads=2,
        n_kv_heads=2,
        cap_feat_dim=8,
        axes_dims=(4, 2, 2),
        axes_lens=(256, 32, 32),
    )
    return ZImageTransformer2DModel(**(sizes | changed))


def z_image_pipeline(*, seed: int = 0) -> ZImagePipeline:
    """A whole pipeline; the global random state is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tokenizer = qwen_tokenizer()
        transformer = z_image_transformer()
        # Zero as they are made, and then nothing would depend on how a prompt is filled up.
        for token in (transformer.x_pad_token, transformer.cap_pad_token):
            torch.nn.init.normal_(token)
        pipeline = ZImagePipeline(
            transformer=transformer,
            scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
            vae=tiny_vae(),
            text_encoder=qwen_encoder(tokenizer, layers=3).model,
            tokenizer=tokenizer,
        )
    return ready(pipeline)
