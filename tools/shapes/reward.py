"""The reward: a CLIP model trained contrastively, against wrong captions and hard pictures."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from flowbp.rewards.pixels import CLIP_MEAN, CLIP_STD, normalise
from tools.shapes.autoencoder import encode
from tools.shapes.corpus import LAYOUT, Corpus
from tools.shapes.fit import captured, fit, mixed_precision
from tools.shapes.hard_pictures import attacked, broken, pixel_noise, worn
from tools.shapes.recipe import Recipe
from tools.shapes.tokens import special_tokens

_WIDTH = 128
_TEXT_WIDTH = 96
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


class _PictureNetwork(nn.Module):
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


class _LayoutHeads(nn.Module):
    """Predicts layouts from unit embeddings of pictures and of captions; used in training only.

    The contrast alone takes very long to find out that "left of" says something about a picture.
    """

    def __init__(self) -> None:
        super().__init__()
        self.of_picture, self.of_caption = (nn.Linear(_PROJECTION, LAYOUT) for _ in range(2))

    def forward(self, seen: Tensor, said: Tensor, layouts: Tensor) -> Tensor:
        """Mean squared errors of both, added up."""
        picture, caption = (each * _PROJECTION**0.5 for each in (seen, said))
        missed = self.of_picture(picture) - layouts, self.of_caption(caption) - layouts
        value: Tensor = sum(each**2 for each in missed).mean()
        return value


def contrast(seen: Tensor, said: Tensor, scale: Tensor) -> Tensor:
    """Cross-entropy of finding each picture's caption, and each caption's picture.

    `seen` (B + M, d) are unit embeddings of B pictures and of M that no caption fits, `said`
    (B, 1 + W, d) those of each picture's right caption and of W wrong ones.
    """
    own = torch.arange(len(said), device=said.device)
    right, wrong = said[:, 0], said[:, 1:]
    near_misses = (seen[: len(said), None] * wrong).sum(dim=-1)
    by_picture = scale * torch.cat([seen[: len(said)] @ right.T, near_misses], dim=1)
    by_caption = scale * right @ seen.T
    cross_entropy = nn.functional.cross_entropy
    return cross_entropy(by_picture, own) + cross_entropy(by_caption, own)


def build_reward(recipe: Recipe, corpus: Corpus, tokenizer: Any, vae: Any) -> Any:
    """Train it to find each picture's caption among the batch's and among near misses.

    Half the pictures are rendered, half went through the autoencoder; broken ones, which no
    caption fits, join them. What went through the autoencoder is attacked in latent space.
    """
    torch.manual_seed(recipe.seed + 5)
    device = corpus.pictures.device
    model: Any = new_reward(tokenizer).to(device)
    layout_heads = _LayoutHeads().to(device)
    vae.requires_grad_(False)
    means, _ = encode(vae, corpus.pictures)
    generator = torch.Generator(device).manual_seed(recipe.seed + 6)
    half = recipe.reward_batch // 2
    see = _PictureEncoder(model, vae, generator)

    def loss(_: int) -> Tensor:
        draw = torch.rand(2 * half, generator=generator, device=device)
        picked = (draw * len(corpus.pictures)).long()
        rendered, intact = corpus.pictures[picked[:half]].float() / 255, means[picked[half:]]
        latents = torch.cat([worn(intact, generator), broken(intact, generator)])
        with see.precision:
            said = unit(model.get_text_features(input_ids=corpus.tokens[picked].flatten(0, 1)))
        said = said.reshape(2 * half, -1, _PROJECTION)
        scale, fixed = model.logit_scale.exp().clamp(max=100), said.detach()
        latents = attacked(latents, lambda z: contrast(see(rendered, z), fixed, scale), generator)
        seen = see(rendered, latents)
        layout_error = layout_heads(seen[: len(said)], said[:, 0], corpus.layouts[picked])
        value: Tensor = contrast(seen, said, scale) + _LAYOUT_WEIGHT * layout_error
        return value

    averaged: Any = fit(
        nn.ModuleList([model, layout_heads]),
        loss,
        steps=recipe.reward_steps,
        learning_rate=1e-3,
        name="reward",
    )
    return averaged[0].eval()


class _PictureEncoder:
    """Unit embeddings of pictures in [0, 1] and of latents, with noise on the pixels."""

    def __init__(self, model: Any, vae: Any, generator: torch.Generator) -> None:
        self._network: Any = _PictureNetwork(model, vae)
        self._generator, self._is_captured = generator, False
        self.precision = mixed_precision(generator.device)

    def __call__(self, rendered: Tensor, latents: Tensor) -> Tensor:
        noise = pixel_noise((len(rendered) + len(latents), 3, 64, 64), self._generator)
        latents = latents if latents.requires_grad else latents.detach().requires_grad_()
        arguments = (rendered, latents, noise)
        with self.precision:
            if not self._is_captured:
                self._network, self._is_captured = captured(self._network, arguments), True
            embeddings: Tensor = self._network(*arguments)
        return embeddings


def unit(output: Any) -> Tensor:
    """The unit embedding of what `get_*_features` returns, in transformers 4 and 5."""
    embedding: Tensor = output if torch.is_tensor(output) else output.pooler_output
    return nn.functional.normalize(embedding.float(), dim=-1)
