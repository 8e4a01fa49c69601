"""Tiny random Stable Diffusion 3 pipelines made of the real classes."""

from __future__ import annotations

import string
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    FlowMatchEulerDiscreteScheduler,
    SD3Transformer2DModel,
    StableDiffusion3Pipeline,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    T5Config,
    T5EncoderModel,
    T5TokenizerFast,
)

CLIP_LENGTH = 12


def clip_tokenizer() -> CLIPTokenizer:
    """A letter-by-letter CLIP tokenizer of 12 positions."""
    letters = string.ascii_lowercase + string.digits + "<|>"
    entries = [*letters, *(f"{letter}</w>" for letter in letters)]
    entries += ["<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(
        vocab={entry: number for number, entry in enumerate(entries)},
        merges=[],
        model_max_length=CLIP_LENGTH,
    )


def t5_tokenizer() -> T5TokenizerFast:
    """A letter-by-letter T5 tokenizer."""
    vocabulary = [("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("▁", -2.0)]
    vocabulary += [(letter, -3.0) for letter in string.ascii_lowercase]
    return T5TokenizerFast(vocab=vocabulary, extra_ids=0, model_max_length=512)


def clip_encoder(
    tokenizer: CLIPTokenizer, *, width: int, activation: str
) -> CLIPTextModelWithProjection:
    """A two-layer CLIP text encoder for `tokenizer`."""
    return CLIPTextModelWithProjection(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=width,
            projection_dim=width,
            intermediate_size=2 * width,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=CLIP_LENGTH,
            hidden_act=activation,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def t5_encoder(tokenizer: T5TokenizerFast, *, width: int) -> T5EncoderModel:
    """A one-layer T5 encoder for `tokenizer`."""
    return T5EncoderModel(
        T5Config(
            vocab_size=len(tokenizer),
            d_model=width,
            d_kv=8,
            d_ff=2 * width,
            num_layers=1,
            num_heads=2,
            feed_forward_proj="gated-gelu",
            pad_token_id=0,
            eos_token_id=1,
        )
    )


def tiny_vae() -> AutoencoderKL:
    """A VAE of two pixels per latent, with SD3's scaling and shift."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=16,
        scaling_factor=1.5305,
        shift_factor=0.0609,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )


def tiny_transformer(**changed: Any) -> SD3Transformer2DModel:
    """A transformer with dual attention and query/key norm as in SD3.5."""
    sizes = dict(
        sample_size=16,
        patch_size=2,
        in_channels=4,
        out_channels=4,
        num_layers=3,
        attention_head_dim=8,
        num_attention_heads=2,
        joint_attention_dim=32,
        caption_projection_dim=16,
        pooled_projection_dim=24,
        pos_embed_max_size=16,
        dual_attention_layers=(0,),
        qk_norm="rms_norm",
    )
    return SD3Transformer2DModel(**(sizes | changed))


def tiny_pipeline(*, t5: bool, seed: int = 0) -> StableDiffusion3Pipeline:
    """A whole pipeline; the global random state is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tokenizer, tokenizer_2 = clip_tokenizer(), clip_tokenizer()
        tokenizer_3 = t5_tokenizer() if t5 else None
        pipeline = StableDiffusion3Pipeline(
            transformer=tiny_transformer(),
            scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0),
            vae=tiny_vae(),
            text_encoder=clip_encoder(tokenizer, width=8, activation="quick_gelu"),
            tokenizer=tokenizer,
            text_encoder_2=clip_encoder(tokenizer_2, width=16, activation="gelu"),
            tokenizer_2=tokenizer_2,
            text_encoder_3=t5_encoder(tokenizer_3, width=32) if t5 else None,
            tokenizer_3=tokenizer_3,
        )
    for module in pipeline.components.values():
        if isinstance(module, torch.nn.Module):
            module.eval()
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def with_scheduler(
    pipeline: StableDiffusion3Pipeline, scheduler: FlowMatchEulerDiscreteScheduler
) -> StableDiffusion3Pipeline:
    """The same models under another scheduler."""
    changed = StableDiffusion3Pipeline(**{**pipeline.components, "scheduler": scheduler})
    changed.set_progress_bar_config(disable=True)
    return changed
