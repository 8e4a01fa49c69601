"""The reward: a CLIP model trained contrastively on right captions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from flowbp.rewards.pixels import CLIP_MEAN, CLIP_STD
from flowbp.shapes.build.autoencoder import decode, encode
from flowbp.shapes.build.corpus import Corpus
from flowbp.shapes.build.fit import fit
from flowbp.shapes.build.recipe import Recipe
from flowbp.shapes.build.tokens import special_tokens

_WIDTH = 128
_TEXT_WIDTH = 96
_NEAR_MISSES = 2
_PROJECTION = 64
_PIXEL_NOISE = 0.05
_LATENT_NOISE = 0.15
_BROKEN_NOISE = 0.6
_BROKEN_PART = (0.3, 0.7)


def features(output: Any) -> Tensor:
    """The embedding that `get_*_features` returns, in transformers 4 and 5."""
    embedding: Tensor = output if torch.is_tensor(output) else output.pooler_output
    return embedding


def new_reward(tokenizer: Any) -> Any:
    """An untrained `CLIPModel` for 64x64 pictures."""
    from transformers import CLIPConfig, CLIPModel

    return CLIPModel(
        CLIPConfig(
            projection_dim=_PROJECTION,
            text_config={
                "hidden_size": _TEXT_WIDTH,
                "intermediate_size": 2 * _TEXT_WIDTH,
                "num_hidden_layers": 2,
                "num_attention_heads": 4,
                "projection_dim": _PROJECTION,
                **special_tokens(tokenizer),
            },
            vision_config={
                "hidden_size": _WIDTH,
                "intermediate_size": 4 * _WIDTH,
                "num_hidden_layers": 4,
                "num_attention_heads": 4,
                "image_size": 64,
                "patch_size": 16,
                "projection_dim": _PROJECTION,
            },
        )
    )


def build_reward(recipe: Recipe, corpus: Corpus, tokenizer: Any, vae: Any) -> Any:
    """Train it to tell each picture's caption from the batch's and from near misses."""
    torch.manual_seed(recipe.seed + 5)
    device = corpus.pictures.device
    model: Any = new_reward(tokenizer).to(device)
    generator = torch.Generator(device).manual_seed(recipe.seed + 6)
    decoded = _decoded(corpus.pictures[: recipe.decoded], vae, generator)
    broken = _broken(corpus.pictures[: recipe.decoded], vae, generator)
    batch = recipe.reward_batch
    own = torch.arange(batch, device=device)

    def loss(_: int) -> Tensor:
        half = torch.rand(2, batch // 2, generator=generator, device=device)
        drawn, again = (half[0] * len(corpus.pictures)).long(), (half[1] * len(decoded)).long()
        pictures = torch.cat([corpus.pictures[drawn], decoded[again], broken[again]])
        pictures = _noisy(pictures.float() / 255, generator)
        tokens = corpus.tokens[torch.cat([drawn, again])]
        near = torch.rand(tokens.shape[:2], generator=generator, device=device)
        near = near[:, 1:].topk(_NEAR_MISSES).indices + 1
        near = torch.cat([torch.zeros_like(near[:, :1]), near], dim=1)
        captions = tokens.gather(1, near[..., None].expand(-1, -1, tokens.shape[2]))
        captions = captions.transpose(0, 1).flatten(0, 1)
        with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
            seen = features(model.get_image_features(pixel_values=normalised(pictures)))
            said = features(model.get_text_features(input_ids=captions))
        seen, shattered = nn.functional.normalize(seen.float(), dim=-1).tensor_split([batch])
        said = nn.functional.normalize(said.float(), dim=-1)
        scale = model.logit_scale.exp().clamp(max=100)
        right, wrong = said[:batch], said[batch:].reshape(-1, batch, said.shape[-1])
        near_misses = scale * (seen * wrong).sum(dim=-1).T
        by_picture = torch.cat([scale * seen @ right.T, near_misses], dim=1)
        by_caption = scale * right @ torch.cat([seen, shattered]).T
        cross_entropy = nn.functional.cross_entropy
        return cross_entropy(by_picture, own) + cross_entropy(by_caption, own)

    averaged = fit(model, loss, steps=recipe.reward_steps, learning_rate=1e-3, name="reward")
    return averaged.eval()


def normalised(pictures: Tensor) -> Tensor:
    """Pictures in [0, 1] with CLIP's mean and deviation taken out."""
    mean = torch.tensor(CLIP_MEAN, device=pictures.device)
    deviation = torch.tensor(CLIP_STD, device=pictures.device)
    return (pictures - mean[:, None, None]) / deviation[:, None, None]


@torch.no_grad()
def _decoded(pictures: Tensor, vae: Any, generator: torch.Generator) -> Tensor:
    """Pictures after a trip through the autoencoder with noise on the latents, uint8.

    The reward will score decoded pictures; it must neither favour nor fear the decoder's traces.
    """
    z, _ = encode(vae, pictures)
    strength = torch.rand(len(z), 1, 1, 1, generator=generator, device=z.device)
    eps = torch.randn(z.shape, generator=generator, device=z.device)
    return (decode(vae, z + _LATENT_NOISE * z.std() * strength * eps) * 255).to(torch.uint8)


@torch.no_grad()
def _broken(pictures: Tensor, vae: Any, generator: torch.Generator) -> Tensor:
    """Pictures with random patches of their latents taken from another, and much noise, uint8.

    No caption is right for them. Without such pictures the reward would not know that a shape can
    be misshapen, and a generator that climbs it would find blots that score like shapes.
    """
    z, _ = encode(vae, pictures)
    device = z.device
    low, high = _BROKEN_PART
    draw = torch.rand(2, len(z), 1, 1, 1, generator=generator, device=device)
    patches = torch.rand(len(z), 1, *z.shape[2:], generator=generator, device=device)
    order = torch.randperm(len(z), generator=generator, device=device)
    mixed = torch.where(patches < low + (high - low) * draw[0], z[order], z)
    eps = torch.randn(z.shape, generator=generator, device=device)
    return (decode(vae, mixed + _BROKEN_NOISE * z.std() * draw[1] * eps) * 255).to(torch.uint8)


def _noisy(pictures: Tensor, generator: torch.Generator) -> Tensor:
    """Pictures with up to `_PIXEL_NOISE` of Gaussian noise."""
    device = pictures.device
    level = _PIXEL_NOISE * torch.rand(len(pictures), 1, 1, 1, generator=generator, device=device)
    noise = torch.randn(pictures.shape, generator=generator, device=device)
    return (pictures + level * noise).clamp(0, 1)
