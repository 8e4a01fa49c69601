"""The reward: a CLIP model trained contrastively, against wrong captions and hard pictures."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from flowbp.rewards.pixels import CLIP_MEAN, CLIP_STD, normalise
from flowbp.shapes.build.autoencoder import encode
from flowbp.shapes.build.corpus import LAYOUT, Corpus
from flowbp.shapes.build.fit import captured, fit
from flowbp.shapes.build.hard_pictures import attacked, broken, pixel_noise, worn
from flowbp.shapes.build.recipe import Recipe
from flowbp.shapes.build.tokens import special_tokens

_WIDTH = 128
_TEXT_WIDTH = 96
_NEAR_MISSES = 4
_PROJECTION = 128
_LAYOUT_WEIGHT = 20.0


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


class _Sight(nn.Module):
    """From pictures, some of them as latents, to unit embeddings."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, model: Any, vae: Any) -> None:
        super().__init__()
        self.vision, self.projection, self.vae = model.vision_model, model.visual_projection, vae
        device = model.logit_scale.device
        self.register_buffer("mean", torch.tensor(CLIP_MEAN, device=device))
        self.register_buffer("deviation", torch.tensor(CLIP_STD, device=device))

    def forward(self, rendered: Tensor, latents: Tensor, noise: Tensor) -> Tensor:
        decoded = (self.vae.decode(latents).sample / 2 + 0.5).clamp(0, 1)
        pictures = (torch.cat([rendered, decoded.float()]) + noise).clamp(0, 1)
        pixels = normalise(pictures, self.mean, self.deviation)
        return unit(self.projection(self.vision(pixel_values=pixels).pooler_output))


def build_reward(recipe: Recipe, corpus: Corpus, tokenizer: Any, vae: Any) -> Any:
    """Train it to tell each picture's caption from the batch's and from near misses.

    Half the pictures are rendered, half went through the autoencoder; broken ones, which no
    caption fits, join them. What went through the autoencoder is attacked in latent space.
    """
    torch.manual_seed(recipe.seed + 5)
    device = corpus.pictures.device
    model: Any = new_reward(tokenizer).to(device)
    by_sight, by_hearsay = (nn.Linear(_PROJECTION, LAYOUT, device=device) for _ in range(2))
    vae.requires_grad_(False)
    means, _ = encode(vae, corpus.pictures)
    generator = torch.Generator(device).manual_seed(recipe.seed + 6)
    batch = recipe.reward_batch
    own = torch.arange(batch, device=device)
    # CUDA graphs may not reuse weights that autocast cast before the capture.
    on_gpu = device.type == "cuda"
    precision = torch.autocast(device.type, torch.bfloat16, enabled=on_gpu, cache_enabled=False)

    sight: list[Any] = []

    def see(rendered: Tensor, latents: Tensor) -> Tensor:
        noise = pixel_noise((len(rendered) + len(latents), 3, 64, 64), generator)
        arguments = (rendered, latents.requires_grad_(), noise)
        with precision:
            if not sight:
                sight.append(captured(_Sight(model, vae), arguments))
            embeddings: Tensor = sight[0](*arguments)
        return embeddings

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

    def describe(seen: Tensor, said: Tensor, layouts: Tensor) -> Tensor:
        # Pictures and right captions must each tell what is where: the contrast alone takes very
        # long to find out that "left of" says something about a picture.
        right = said.reshape(batch, 1 + _NEAR_MISSES, -1)[:, 0]
        told = by_sight(seen[:batch] * _PROJECTION**0.5), by_hearsay(right * _PROJECTION**0.5)
        value: Tensor = sum((each - layouts) ** 2 for each in told).mean()
        return value

    def loss(_: int) -> Tensor:
        draw = torch.rand(batch, generator=generator, device=device)
        picked = (draw * len(corpus.pictures)).long()
        rendered = corpus.pictures[picked[: batch // 2]].float() / 255
        intact = means[picked[batch // 2 :]]
        latents = torch.cat([worn(intact, generator), broken(intact, generator)])
        said = say(_captions(corpus.tokens[picked], generator))
        fixed = said.detach()
        latents = attacked(latents, lambda z: contrast(see(rendered, z), fixed), generator)
        seen = see(rendered, latents)
        return contrast(seen, said) + _LAYOUT_WEIGHT * describe(seen, said, corpus.layouts[picked])

    whole = nn.ModuleList([model, by_sight, by_hearsay])
    averaged: Any = fit(whole, loss, steps=recipe.reward_steps, learning_rate=1e-3, name="reward")
    return averaged[0].eval()


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
