"""Nothing from the core to the rewards assumes a rank of the latents: a model of videos trains.

Its network and its VAE are Wan's own classes, tiny and random; its text is not.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKLWan, WanTransformer3DModel
from torch import Tensor, nn

from flowbp.adapters import Conditioning, LatentDecoder, channel_normalised, reference_of
from flowbp.core import Bridge, DRaFTLV, Lagrange, Linear, ReFL, VelocityField
from flowbp.prompts import cached
from flowbp.testing import check_backbone
from flowbp.training import (
    AdamW,
    Anchor,
    Batching,
    PromptList,
    Streams,
    Trainer,
    TrainingSampling,
    TrainingStep,
)

from .fakes import Recorder

PROMPTS = ["a red box", "two dots"]
CHANNELS, LATENT_FRAMES, FRAMES = 4, 2, 3


class VideoBackbone:
    """A `Backbone` whose latents are (B, C, f, h, w) and whose pictures are (B, 3, F, H, W)."""

    def __init__(self) -> None:
        self.device = torch.device("cpu")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.module = WanTransformer3DModel(
                num_attention_heads=2,
                attention_head_dim=12,
                in_channels=CHANNELS,
                out_channels=CHANNELS,
                text_dim=8,
                freq_dim=16,
                ffn_dim=16,
                num_layers=2,
                rope_max_seq_len=32,
            ).eval()
            vae = AutoencoderKLWan(
                base_dim=8,
                z_dim=CHANNELS,
                dim_mult=[1, 1],
                num_res_blocks=1,
                temperal_downsample=[True],
                latents_mean=[0.1, -0.2, 0.3, 0.0],
                latents_std=[1.5, 0.7, 1.1, 2.0],
                scale_factor_spatial=2,
                scale_factor_temporal=2,
            )
        self.decoder = LatentDecoder(vae=vae, unscale=channel_normalised)

    def encode(self, prompts: Sequence[str]) -> Conditioning:
        rows = [
            torch.randn(5, 8, generator=torch.Generator().manual_seed(_number(prompt)))
            for prompt in prompts
        ]
        return Conditioning({"tokens": torch.stack(rows)})

    def noise(self, count: int, *, height: int, width: int, generator: torch.Generator) -> Tensor:
        shape = (count, CHANNELS, LATENT_FRAMES, height // 2, width // 2)
        return torch.randn(shape, generator=generator)

    def sigmas(self, steps: int, *, height: int, width: int) -> Tensor:
        return torch.linspace(1, 0, steps + 1)

    def velocity(self, conditioning: Conditioning) -> VelocityField:
        def field(latents: Tensor, sigma: Tensor, /) -> Tensor:
            return self.module(
                hidden_states=latents,
                timestep=(1000 * sigma).expand(len(latents)),
                encoder_hidden_states=conditioning.tensors["tokens"],
                return_dict=False,
            )[0]

        return field

    def reference(self):
        """The network as it was made, without gradient."""
        other = VideoBackbone()

        def fields(conditioning: Conditioning) -> VelocityField:
            return torch.no_grad()(other.velocity(conditioning))

        return fields

    def decode(self, latents: Tensor) -> Tensor:
        return self.decoder(latents)

    def trainable(self) -> Mapping[str, nn.Parameter]:
        return dict(self.module.named_parameters())

    def save(self, folder: Path) -> None:
        self.module.save_pretrained(folder)


def _number(prompt: str) -> int:
    return int.from_bytes(hashlib.sha256(prompt.encode()).digest()[:4], "big")


def brightening(videos: Tensor, prompts: Sequence[str]) -> Tensor:
    """How much brighter each video (B, 3, F, H, W) is in its last frame than in its first."""
    assert videos.shape == (len(prompts), 3, FRAMES, 16, 24)
    levels = videos.mean((1, 3, 4))
    return levels[:, -1] - levels[:, 0]


def test_a_model_of_videos_keeps_the_protocol():
    backbone = VideoBackbone()
    check_backbone(backbone, PROMPTS, height=16, width=24, guidance=2.0)
    assert backbone.decode(torch.zeros(2, CHANNELS, LATENT_FRAMES, 8, 12)).ndim == 5


@pytest.mark.parametrize("method", [Bridge(active=2), DRaFTLV(noised=1), Lagrange(), ReFL(last=2)])
def test_a_model_of_videos_is_trained_by_a_reward_over_its_frames(method):
    backbone = cached(VideoBackbone(), None)
    step = TrainingStep(
        backbone=backbone,
        reward=brightening,
        method=method,
        shape=Linear(),
        sampling=TrainingSampling(steps=4, guidance=2.0, height=16, width=24),
        batching=Batching(2, pull=1, decode=1),
        anchor=Anchor(0.01, reference_of(backbone)),
    )
    before = step(PROMPTS, Streams.of(7)).rewards
    assert before.shape == (2,) and before.isfinite().all()
    for parameter in backbone.trainable().values():
        parameter.grad = None
    seen = Recorder()
    trainer = Trainer(
        step=step,
        prompts=PromptList(PROMPTS),
        optimizer=AdamW(learning_rate=1e-3),
        steps=6,
        observers=[seen],
    )
    trainer.run()
    # The same prompts from the same noise.
    after = step(PROMPTS, Streams.of(7)).rewards
    assert after.mean() > before.mean()
