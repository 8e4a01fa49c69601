"""The base model: SD3's transformer and text encoders, trained on partly wrong captions."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from tools.shapes.autoencoder import encode
from tools.shapes.corpus import Corpus
from tools.shapes.fit import captured, fit, mixed_precision
from tools.shapes.recipe import Recipe
from tools.shapes.tokens import special_tokens

_WIDTH = 64
# Plain pipelines append 256 zero T5 positions where there is no T5 encoder, flowbp any number:
# the model sees both extremes, so that it heeds neither. Many positions cost much, so they come
# rarely, and then with a third of the batch.
_MANY_ZEROS, _MANY_ZEROS_EVERY = 256, 50


class BaseModel(nn.Module):
    """The trained parts of the pipeline."""

    def __init__(self, tokenizer: Any) -> None:
        super().__init__()
        from diffusers import SD3Transformer2DModel
        from transformers import CLIPTextConfig, CLIPTextModelWithProjection

        text = CLIPTextConfig(
            hidden_size=_WIDTH,
            intermediate_size=4 * _WIDTH,
            num_hidden_layers=2,
            num_attention_heads=4,
            projection_dim=_WIDTH,
            **special_tokens(tokenizer),
        )
        self.text_encoder = CLIPTextModelWithProjection(text)
        self.text_encoder_2 = CLIPTextModelWithProjection(text)
        self.transformer: Any = SD3Transformer2DModel(
            sample_size=8,
            patch_size=2,
            in_channels=8,
            out_channels=8,
            num_layers=5,
            num_attention_heads=4,
            attention_head_dim=32,
            joint_attention_dim=2 * _WIDTH,
            caption_projection_dim=128,
            pooled_projection_dim=2 * _WIDTH,
            pos_embed_max_size=8,
            qk_norm="rms_norm",
        )

    def embed(self, tokens: Tensor, zeros: int) -> tuple[Tensor, Tensor]:
        """Token embeddings (B, L + zeros, 128) and pooled ones (B, 128) of captions (B, L)."""
        encoded = [
            encoder(tokens, output_hidden_states=True)
            for encoder in (self.text_encoder, self.text_encoder_2)
        ]
        hidden = torch.cat([each.hidden_states[-2] for each in encoded], dim=-1)
        pooled = torch.cat([each.text_embeds for each in encoded], dim=-1)
        return nn.functional.pad(hidden, (0, 0, 0, zeros)), pooled


class _Velocity(nn.Module):
    """From noisy latents and captions to velocities."""

    def __init__(self, model: BaseModel, zeros: int) -> None:
        super().__init__()
        self.model, self.zeros = model, zeros

    def forward(self, latents: Tensor, sigmas: Tensor, tokens: Tensor) -> Tensor:
        hidden, pooled = self.model.embed(tokens, self.zeros)
        velocity: Tensor = self.model.transformer(
            hidden_states=latents,
            encoder_hidden_states=hidden,
            pooled_projections=pooled,
            timestep=1000 * sigmas,
            return_dict=False,
        )[0]
        return velocity


def build_base(recipe: Recipe, corpus: Corpus, tokenizer: Any, vae: Any) -> BaseModel:
    """Train the transformer and both text encoders by flow matching."""
    torch.manual_seed(recipe.seed + 3)
    device = corpus.pictures.device
    model = BaseModel(tokenizer).to(device)
    means, deviations = encode(vae, corpus.pictures)
    shift, scale = vae.config.shift_factor, vae.config.scaling_factor
    generator = torch.Generator(device).manual_seed(recipe.seed + 4)
    precision = mixed_precision(device)
    networks: dict[int, Any] = {}

    def uniform(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator, device=device)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, device=device)

    def loss(step: int) -> Tensor:
        zeros = _MANY_ZEROS if step % _MANY_ZEROS_EVERY == 0 else 0
        batch = recipe.base_batch // 3 if zeros else recipe.base_batch
        picked = (uniform(batch) * len(means)).long()
        z = means[picked] + deviations[picked] * normal(batch, *means.shape[1:])
        z = (z - shift) * scale
        tokens = _captions(corpus, recipe, picked, uniform(batch), uniform(batch))
        # Half logit-normal, half uniform: the middle matters most, the ends must not be missed.
        sigmas = torch.where(uniform(batch) < 0.5, normal(batch).sigmoid(), uniform(batch))
        eps = normal(batch, *means.shape[1:])
        level = sigmas[:, None, None, None]
        with precision:
            arguments = ((1 - level) * z + level * eps, sigmas, tokens)
            if zeros not in networks:
                networks[zeros] = captured(_Velocity(model, zeros), arguments)
            velocity = networks[zeros](*arguments)
        value: Tensor = ((velocity.float() - (eps - z)) ** 2).mean()
        return value

    averaged = fit(
        model,
        loss,
        steps=recipe.base_steps,
        learning_rate=1e-3,
        name="base",
        seconds=recipe.base_seconds,
    )
    assert isinstance(averaged, BaseModel)
    return averaged.eval()


def _captions(
    corpus: Corpus, recipe: Recipe, picked: Tensor, wrong: Tensor, empty: Tensor
) -> Tensor:
    """Right captions, of which a part is replaced by wrong ones and a part by the empty one."""
    choice = (wrong / recipe.wrong_part * recipe.wrong_captions).long() + 1
    tokens = corpus.tokens[picked, torch.where(wrong < recipe.wrong_part, choice, 0)]
    return torch.where((empty < recipe.empty_part)[:, None], corpus.empty, tokens)
