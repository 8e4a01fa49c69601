"""Tiny random FLUX.1 and FLUX.2 pipelines made of the real classes."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import (
    AutoencoderKLFlux2,
    FlowMatchEulerDiscreteScheduler,
    Flux2KleinPipeline,
    Flux2Transformer2DModel,
    FluxPipeline,
    FluxTransformer2DModel,
)
from tokenizers.pre_tokenizers import ByteLevel
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    Qwen2Tokenizer,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from .tiny import CLIP_LENGTH, clip_tokenizer, t5_encoder, t5_tokenizer, tiny_vae

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is false %}<think>\n\n</think>\n\n{% endif %}{% endif %}"
)


def clip_text_model(width: int) -> CLIPTextModel:
    """A two-layer CLIP text encoder without projection."""
    tokenizer = clip_tokenizer()
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=width,
            intermediate_size=2 * width,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=CLIP_LENGTH,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    )


def flux1_transformer(**changed: Any) -> FluxTransformer2DModel:
    """A FLUX.1 transformer of two double and two single blocks."""
    sizes = dict(
        in_channels=16,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=32,
        pooled_projection_dim=8,
        guidance_embeds=True,
        axes_dims_rope=(4, 6, 6),
    )
    return FluxTransformer2DModel(**(sizes | changed))


def flux1_pipeline(*, guidance_embeds: bool = True, seed: int = 0) -> FluxPipeline:
    """Dev with its dynamic shift, or schnell without shift and without guidance embedding."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tokenizer_2 = t5_tokenizer()
        pipeline = FluxPipeline(
            transformer=flux1_transformer(guidance_embeds=guidance_embeds),
            scheduler=FlowMatchEulerDiscreteScheduler(
                shift=3.0 if guidance_embeds else 1.0, use_dynamic_shifting=guidance_embeds
            ),
            vae=tiny_vae(),
            text_encoder=clip_text_model(8),
            tokenizer=clip_tokenizer(),
            text_encoder_2=t5_encoder(tokenizer_2, width=32),
            tokenizer_2=tokenizer_2,
        )
    return ready(pipeline)


def qwen_tokenizer() -> Qwen2Tokenizer:
    """A byte-by-byte Qwen2 tokenizer with a chat template of Qwen3's form."""
    marks = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = sorted(ByteLevel.alphabet())
    tokenizer = Qwen2Tokenizer(
        vocab={entry: number for number, entry in enumerate([*alphabet, *marks])}, merges=[]
    )
    tokenizer.add_special_tokens({"additional_special_tokens": marks[1:]})
    tokenizer.chat_template = CHAT_TEMPLATE
    return tokenizer


def qwen_encoder(tokenizer: Qwen2Tokenizer, *, layers: int = 28) -> Qwen3ForCausalLM:
    """A Qwen3 narrow enough to have the 28 layers whose middle the pipeline reads."""
    return Qwen3ForCausalLM(
        Qwen3Config(
            vocab_size=len(tokenizer),
            hidden_size=8,
            intermediate_size=16,
            num_hidden_layers=layers,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=8,
            max_position_embeddings=512,
            tie_word_embeddings=True,
        )
    )


def flux2_vae() -> AutoencoderKLFlux2:
    """A VAE of two pixels per latent whose batch-norm statistics are not the trivial ones."""
    vae = AutoencoderKLFlux2(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=16,
    )
    vae.bn.running_mean.copy_(0.3 * torch.randn(16))
    vae.bn.running_var.copy_(0.5 + torch.rand(16))
    return vae


def flux2_transformer(**changed: Any) -> Flux2Transformer2DModel:
    """A FLUX.2 klein transformer of two double and two single blocks."""
    sizes = dict(
        in_channels=16,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=24,
        timestep_guidance_channels=16,
        axes_dims_rope=(4, 4, 4, 4),
        guidance_embeds=False,
    )
    return Flux2Transformer2DModel(**(sizes | changed))


def flux2_pipeline(*, is_distilled: bool = False, seed: int = 0) -> Flux2KleinPipeline:
    """Klein-base, or klein."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        tokenizer = qwen_tokenizer()
        pipeline = Flux2KleinPipeline(
            transformer=flux2_transformer(),
            scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
            vae=flux2_vae(),
            text_encoder=qwen_encoder(tokenizer),
            tokenizer=tokenizer,
            is_distilled=is_distilled,
        )
    return ready(pipeline)


def ready(pipeline: Any) -> Any:
    """The pipeline in evaluation mode, without progress bars."""
    for module in pipeline.components.values():
        if isinstance(module, torch.nn.Module):
            module.eval()
    pipeline.set_progress_bar_config(disable=True)
    return pipeline
