"""Tiny random Qwen-Image pipelines made of the real classes."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import (
    AutoencoderKLQwenImage,
    FlowMatchEulerDiscreteScheduler,
    QwenImagePipeline,
    QwenImageTransformer2DModel,
)
from tokenizers import AddedToken
from transformers import (
    Qwen2_5_VLConfig,
    Qwen2_5_VLForConditionalGeneration,
    Qwen2Tokenizer,
)

from .tiny_flux import qwen_tokenizer, ready

# All of the template's instruction but its last 17 letters, so that there are 34 tokens before the
# prompt, as the real tokenizer has.
INSTRUCTION = (
    "Describe the image by detailing the color, shape, size, texture, quantity, text, spatial "
    "relationships of the object"
)


def template_tokenizer() -> Qwen2Tokenizer:
    """A byte-by-byte Qwen2 tokenizer that reads most of the template's instruction as one."""
    tokenizer = qwen_tokenizer()
    tokenizer.add_tokens([AddedToken(INSTRUCTION, normalized=False)])
    return tokenizer


def qwen_vl_encoder(
    tokenizer: Qwen2Tokenizer, *, width: int = 16
) -> Qwen2_5_VLForConditionalGeneration:
    """A Qwen2.5-VL of one layer for text and one for pictures."""
    return Qwen2_5_VLForConditionalGeneration(
        Qwen2_5_VLConfig(
            text_config=dict(
                vocab_size=len(tokenizer),
                hidden_size=width,
                intermediate_size=16,
                num_hidden_layers=1,
                num_attention_heads=2,
                num_key_value_heads=1,
                max_position_embeddings=2048,
                rope_parameters={
                    "rope_type": "default",
                    "rope_theta": 10000.0,
                    "mrope_section": [1, 1, 2],
                },
            ),
            vision_config=dict(
                depth=1, hidden_size=8, intermediate_size=8, num_heads=1, out_hidden_size=width
            ),
        )
    )


def qwen_image_vae(**changed: Any) -> AutoencoderKLQwenImage:
    """A VAE of videos of two pixels per latent, with statistics that are not the trivial ones."""
    sizes = dict(
        base_dim=8,
        z_dim=4,
        dim_mult=[1, 1],
        num_res_blocks=1,
        temperal_downsample=[False],
        latents_mean=[0.1, -0.2, 0.3, 0.0],
        latents_std=[1.5, 0.7, 1.1, 2.0],
    )
    return AutoencoderKLQwenImage(**(sizes | changed))


def qwen_image_transformer(**changed: Any) -> QwenImageTransformer2DModel:
    """A Qwen-Image transformer of two blocks."""
    sizes = dict(
        in_channels=16,
        out_channels=4,
        num_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=16,
        axes_dims_rope=(4, 6, 6),
    )
    return QwenImageTransformer2DModel(**(sizes | changed))


def qwen_image_pipeline(*, seed: int = 0) -> QwenImagePipeline:
    """A whole pipeline; the global random state is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tokenizer = template_tokenizer()
        pipeline = QwenImagePipeline(
            transformer=qwen_image_transformer(),
            scheduler=FlowMatchEulerDiscreteScheduler(
                use_dynamic_shifting=True,
                base_shift=0.5,
                max_shift=0.9,
                max_image_seq_len=8192,
                shift_terminal=0.02,
            ),
            vae=qwen_image_vae(),
            text_encoder=qwen_vl_encoder(tokenizer),
            tokenizer=tokenizer,
        )
    return ready(pipeline)
