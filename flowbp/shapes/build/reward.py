"""The reward: a CLIP model trained contrastively, against wrong captions and hard pictures."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from flowbp.rewards.pixels import CLIP_MEAN, CLIP_STD, normalise
from flowbp.shapes.build.autoencoder import encode
from flowbp.shapes.build.corpus import Corpus
from flowbp.shapes.build.fit import fit
from flowbp.shapes.build.hard_pictures import attacked, broken, noisy, worn
from flowbp.shapes.build.recipe import Recipe
from flowbp.shapes.build.tokens import special_tokens

_WIDTH = 128
_TEXT_WIDTH = 96
_NEAR_MISSES = 2
_PROJECTION = 64


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
                "patch_size": 8,
                "projection_dim": _PROJECTION,
            },
        )
    )


def build_reward(recipe: Recipe, corpus: Corpus, tokenizer: Any, vae: Any) -> Any:
    """Train it to tell each picture's caption from the batch's and from near misses.

    Half the pictures are rendered, half went through the autoencoder; broken ones, which no
    caption fits, join them. What went through the autoencoder is attacked in latent space.
    """
    torch.manual_seed(recipe.seed + 5)
    device = corpus.pictures.device
    model: Any = new_reward(tokenizer).to(device)
    vae.requires_grad_(False)
    means, _ = encode(vae, corpus.pictures)
    generator = torch.Generator(device).manual_seed(recipe.seed + 6)
    batch = recipe.reward_batch
    own = torch.arange(batch, device=device)
    precision = torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda")

    def see(rendered: Tensor, latents: Tensor) -> Tensor:
        with precision:
            decoded = (vae.decode(latents).sample / 2 + 0.5).clamp(0, 1)
            pictures = noisy(torch.cat([rendered, decoded.float()]), generator)
            pixels = normalise(pictures, CLIP_MEAN, CLIP_STD)
            return unit(model.get_image_features(pixel_values=pixels))

    def say(tokens: Tensor) -> Tensor:
        with precision:
            return unit(model.get_text_features(input_ids=tokens.flatten(0, 1)))

    def contrast(seen: Tensor, said: Tensor) -> Tensor:
        said = said.reshape(batch, 1 + _NEAR_MISSES, -1)
        right, wrong = said[:, 0], said[:, 1:]
        scale = model.logit_scale.exp().clamp(max=100)
        near_misses = (seen[:batch, None] * wrong).sum(dim=-1)
        by_picture = scale * torch.cat([seen[:batch] @ right.T, near_misses], dim=1)
        by_caption = scale * right @ seen.T
        cross_entropy = nn.functional.cross_entropy
        return cross_entropy(by_picture, own) + cross_entropy(by_caption, own)

    def loss(_: int) -> Tensor:
        draw = torch.rand(batch, generator=generator, device=device)
        picked = (draw * len(corpus.pictures)).long()
        rendered = corpus.pictures[picked[: batch // 2]].float() / 255
        intact = means[picked[batch // 2 :]]
        latents = torch.cat([worn(intact, generator), broken(intact, generator)])
        said = say(_captions(corpus.tokens[picked], generator))
        fixed = said.detach()
        latents = attacked(latents, lambda z: contrast(see(rendered, z), fixed), generator)
        return contrast(see(rendered, latents), said)

    averaged = fit(model, loss, steps=recipe.reward_steps, learning_rate=1e-3, name="reward")
    return averaged.eval()


def unit(output: Any) -> Tensor:
    """The unit embedding of what `get_*_features` returns, in transformers 4 and 5."""
    embedding: Tensor = output if torch.is_tensor(output) else output.pooler_output
    return nn.functional.normalize(embedding.float(), dim=-1)


def _captions(tokens: Tensor, generator: torch.Generator) -> Tensor:
    """Each picture's right caption and `_NEAR_MISSES` of its wrong ones, (B, 1 + misses, L)."""
    order = torch.rand(tokens.shape[:2], generator=generator, device=tokens.device)
    wrong = order[:, 1:].topk(_NEAR_MISSES).indices + 1
    chosen = torch.cat([torch.zeros_like(wrong[:, :1]), wrong], dim=1)
    return tokens.gather(1, chosen[..., None].expand(-1, -1, tokens.shape[2]))
