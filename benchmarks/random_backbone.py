"""Backbones of published shapes with random weights, for measuring without the real ones."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import attrs
import diffusers
import torch
from torch import Tensor

from flowbp.adapters import (
    Checkpointing,
    Conditioning,
    DiffusersBackbone,
    DtypePolicy,
    Flux1Backbone,
    Flux2Backbone,
    LatentDecoder,
    QwenImageBackbone,
    SD3Backbone,
    TextEncoders,
    ZImageBackbone,
)
from flowbp.adapters.backbone import LENGTHS
from flowbp.adapters.decoder import batch_normalised, channel_normalised, scaled
from flowbp.adapters.dtype_policy import FLOAT32
from flowbp.adapters.quantization import Quantization

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
    "z_image": dict(
        all_f_patch_size=(1,),
        all_patch_size=(2,),
        axes_dims=(32, 48, 48),
        axes_lens=(1536, 512, 512),
        cap_feat_dim=2560,
        dim=3840,
        in_channels=16,
        n_heads=30,
        n_kv_heads=30,
        n_layers=30,
        n_refiner_layers=2,
    ),
    "qwen_image": dict(
        attention_head_dim=128,
        axes_dims_rope=(16, 56, 56),
        guidance_embeds=False,
        in_channels=64,
        joint_attention_dim=3584,
        num_attention_heads=24,
        num_layers=60,
        out_channels=16,
        patch_size=2,
    ),
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
    "z_image": _KL | dict(scaling_factor=0.3611, shift_factor=0.1159),
    # With the statistics that diffusers has for it.
    "qwen_image": dict(
        base_dim=96,
        dim_mult=[1, 2, 4, 4],
        num_res_blocks=2,
        temperal_downsample=[False, True, True],
        z_dim=16,
    ),
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
    "z_image": dict(shift=6.0),
    "qwen_image": _DYNAMIC
    | dict(max_image_seq_len=8192, max_shift=0.9, shift=1.0, shift_terminal=0.02),
}
"""The FlowMatchEulerDiscreteSchedulers, by family; not those of schnell and of Z-Image-Turbo."""

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
    "z_image": dict(n_layers=1, n_refiner_layers=1, dim=128, n_heads=1, n_kv_heads=1),
    "qwen_image": dict(num_layers=1, num_attention_heads=1),
}
"""Changes that make a transformer small enough for a test, by family."""

SMALL_VAES: dict[str, dict[str, Any]] = {
    family: dict(base_dim=8, num_res_blocks=1)
    if family == "qwen_image"
    else dict(block_out_channels=(32,) * 4, layers_per_block=1)
    for family in SMALL
}
"""Likewise an autoencoder."""


_FAMILIES = {
    "sd3.5": (SD3Backbone, "SD3Transformer2DModel", "AutoencoderKL", scaled),
    "flux1": (Flux1Backbone, "FluxTransformer2DModel", "AutoencoderKL", scaled),
    "flux2": (Flux2Backbone, "Flux2Transformer2DModel", "AutoencoderKLFlux2", batch_normalised),
    "z_image": (ZImageBackbone, "ZImageTransformer2DModel", "AutoencoderKL", scaled),
    "qwen_image": (
        QwenImageBackbone,
        "QwenImageTransformer2DModel",
        "AutoencoderKLQwenImage",
        channel_normalised,
    ),
}
_CLIP_TOKENS = 77


@attrs.frozen(kw_only=True, eq=False)
class RandomText:
    """Text encoders that are not there: each prompt has random embeddings of its own."""

    shapes: Mapping[str, tuple[int, ...]]
    dtype: torch.dtype
    device: torch.device = attrs.field(converter=torch.device)

    @property
    def encoders(self) -> TextEncoders:
        return TextEncoders(
            family="random", towers={}, read={}, facts=dict(self.shapes), device=self.device
        )

    def __call__(self, prompts: Sequence[str]) -> Conditioning:
        rows = [self._row(prompt) for prompt in prompts]
        stacked = {name: torch.stack([row[name] for row in rows]) for name in self.shapes}
        return Conditioning(stacked).to(self.device)

    def _row(self, prompt: str) -> dict[str, Tensor]:
        seed = int.from_bytes(hashlib.sha256(prompt.encode()).digest()[:7])
        generator = torch.Generator().manual_seed(seed)
        drawn = {
            name: torch.randn(shape, generator=generator).to(self.dtype)
            for name, shape in self.shapes.items()
            if name != LENGTHS
        }
        # All of them are read.
        length = {LENGTHS: torch.tensor(len(drawn["tokens"]))}
        return drawn | (length if LENGTHS in self.shapes else {})


def random_backbone(
    name: str,
    *,
    policy: DtypePolicy = FLOAT32,
    device: torch.device | str = "cpu",
    text_tokens: int = 512,
    decode_batch: int | None = None,
    gradient_checkpointing: Checkpointing = "auto",
    quantization: Quantization | None = None,
    seed: int = 0,
    transformer: Mapping[str, Any] | None = None,
    vae: Mapping[str, Any] | None = None,
) -> DiffusersBackbone:
    """A backbone in the shape of a published model, with random weights.

    Speed and memory are those of the real one; its pictures are noise, and without text encoders
    it cannot be saved as a pipeline. The weights are made on the device, in their dtype, and
    quantised there; torch's own generators are left as they were. `name` is a key of
    `TRANSFORMERS`; `text_tokens` are T5's or Qwen3's, to which SD3.5 adds CLIP's 77; `transformer`
    and `vae` change their configurations, to make them smaller.
    """
    if name not in TRANSFORMERS:
        names = ", ".join(map(repr, TRANSFORMERS))
        raise ValueError(f"`name` must be one of {names}, got {name!r}")
    family = name.split()[0]
    kind, network, autoencoder, unscale = _FAMILIES[family]
    config, frozen = TRANSFORMERS[name] | dict(transformer or {}), policy.frozen
    place = torch.device(device)
    with drawn_on(place, policy.weights, seed):
        network = getattr(diffusers, network).from_config(config)
    with drawn_on(place, frozen.weights, seed):
        vae_module = getattr(diffusers, autoencoder).from_config(VAES[family] | dict(vae or {}))
    backbone: DiffusersBackbone = kind(
        transformer=network,
        text=RandomText(
            shapes=_embeddings(family, config, text_tokens), dtype=frozen.weights, device=place
        ),
        decoder=LatentDecoder(
            vae=vae_module, unscale=unscale, policy=frozen, device=place, decode_batch=decode_batch
        ),
        scheduler=diffusers.FlowMatchEulerDiscreteScheduler(**SCHEDULERS[family]),
        policy=policy,
        device=place,
        gradient_checkpointing=gradient_checkpointing,
        quantization=quantization,
    )
    return backbone


@contextmanager
def drawn_on(device: torch.device, dtype: torch.dtype, seed: int) -> Iterator[None]:
    """Networks made within have weights on a device, drawn by a seed alone."""
    # The default dtype, because a 12 billion parameter model would not fit first in float32.
    before = torch.get_default_dtype()
    devices = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), torch.device(device):
        torch.manual_seed(seed)
        torch.set_default_dtype(dtype)
        try:
            yield
        finally:
            torch.set_default_dtype(before)


def _embeddings(family: str, config: Mapping[str, Any], tokens: int) -> dict[str, tuple[int, ...]]:
    if family == "z_image":
        return {"tokens": (tokens, config["cap_feat_dim"]), LENGTHS: ()}
    length = tokens + _CLIP_TOKENS if family == "sd3.5" else tokens
    shapes: dict[str, tuple[int, ...]] = {"tokens": (length, config["joint_attention_dim"])}
    if family == "qwen_image":
        shapes[LENGTHS] = ()
    if "pooled_projection_dim" in config:
        shapes["pooled"] = (config["pooled_projection_dim"],)
    return shapes
