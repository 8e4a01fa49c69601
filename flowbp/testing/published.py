"""Configurations of published checkpoints: what a model of their shape is made from.

Sources: SD3.5 and FLUX.1, the transformer/config.json, vae/config.json and
scheduler/scheduler_config.json of stabilityai's stable-diffusion-3.5-medium and -large and of
black-forest-labs' FLUX.1-dev and FLUX.1-schnell; FLUX.2 klein, diffusers'
scripts/convert_flux2_to_diffusers.py, which wrote those of its repositories. Those of the
transformers agree with the copies that independent public conversion scripts and loaders hold.
"""

from __future__ import annotations

from typing import Any

_SD35 = dict(
    attention_head_dim=64,
    in_channels=16,
    joint_attention_dim=4096,
    out_channels=16,
    patch_size=2,
    pooled_projection_dim=2048,
    qk_norm="rms_norm",
    sample_size=128,
)
_FLUX1 = dict(
    attention_head_dim=128,
    in_channels=64,
    joint_attention_dim=4096,
    num_attention_heads=24,
    num_layers=19,
    num_single_layers=38,
    patch_size=1,
    pooled_projection_dim=768,
)
_KLEIN = dict(
    patch_size=1,
    in_channels=128,
    attention_head_dim=128,
    timestep_guidance_channels=256,
    mlp_ratio=3.0,
    axes_dims_rope=(32, 32, 32, 32),
    rope_theta=2000,
    eps=1e-6,
    guidance_embeds=False,
)
TRANSFORMERS: dict[str, dict[str, Any]] = {
    "sd3.5 medium": _SD35
    | dict(
        caption_projection_dim=1536,
        dual_attention_layers=tuple(range(13)),
        num_attention_heads=24,
        num_layers=24,
        pos_embed_max_size=384,
    ),
    "sd3.5 large": _SD35
    | dict(
        caption_projection_dim=2432,
        dual_attention_layers=(),
        num_attention_heads=38,
        num_layers=38,
        pos_embed_max_size=192,
    ),
    "flux1 dev": _FLUX1 | dict(guidance_embeds=True),
    "flux1 schnell": _FLUX1 | dict(guidance_embeds=False),
    "flux2 klein 4B": _KLEIN
    | dict(num_layers=5, num_single_layers=20, num_attention_heads=24, joint_attention_dim=7680),
    "flux2 klein 9B": _KLEIN
    | dict(num_layers=8, num_single_layers=24, num_attention_heads=32, joint_attention_dim=12288),
}
"""The transformers, by model."""

_BLOCKS = dict(
    block_out_channels=(128, 256, 512, 512),
    down_block_types=("DownEncoderBlock2D",) * 4,
    layers_per_block=2,
    norm_num_groups=32,
    sample_size=1024,
    up_block_types=("UpDecoderBlock2D",) * 4,
)
_KL = _BLOCKS | dict(latent_channels=16, use_post_quant_conv=False, use_quant_conv=False)
VAES: dict[str, dict[str, Any]] = {
    "sd3.5": _KL | dict(scaling_factor=1.5305, shift_factor=0.0609),
    "flux1": _KL | dict(scaling_factor=0.3611, shift_factor=0.1159),
    "flux2": _BLOCKS | dict(latent_channels=32, patch_size=(2, 2), batch_norm_eps=1e-4),
}
"""The autoencoders, by family."""

_DYNAMIC = dict(
    base_image_seq_len=256,
    base_shift=0.5,
    max_image_seq_len=4096,
    max_shift=1.15,
    shift=3.0,
    use_dynamic_shifting=True,
)
SCHEDULERS: dict[str, dict[str, Any]] = {
    "sd3.5": dict(shift=3.0),
    "flux1": _DYNAMIC,
    "flux2": _DYNAMIC,
}
"""The FlowMatchEulerDiscreteSchedulers, by family; schnell's is not among them."""

SMALL: dict[str, dict[str, Any]] = {
    "sd3.5": dict(
        num_layers=2,
        num_attention_heads=1,
        caption_projection_dim=64,
        dual_attention_layers=(0,),
        pos_embed_max_size=16,
    ),
    "flux1": dict(num_layers=1, num_single_layers=1, num_attention_heads=1),
    "flux2": dict(num_layers=1, num_single_layers=1, num_attention_heads=1),
}
"""Changes that make a transformer small enough for a test, by family."""
