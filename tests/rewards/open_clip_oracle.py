"""open_clip's two transformers from their published mathematics, in its own keys; plain torch."""

from __future__ import annotations

import math

import torch
from torch.nn import functional as F

from flowbp.rewards import ClipArchitecture, TransformerSizes
from flowbp.rewards.clip_model import open_clip_layout

TINY = ClipArchitecture(
    vision=TransformerSizes(width=24, hidden=40, layers=3, heads=4),
    text=TransformerSizes(width=16, hidden=28, layers=2, heads=2),
    projection=12,
    image=16,
    patch=4,
    vocabulary=80,
    positions=12,
)


def random_weights(architecture, seed=0):
    """Weights large enough that scores differ between pictures and prompts."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for key, shape in open_clip_layout(architecture.model()).items():
        values = torch.randn(shape, generator=generator)
        if key == "logit_scale":
            weights[key] = torch.tensor(3.0)
        elif ".ln_" in key or key.startswith("ln_"):
            weights[key] = values / 4 + (1 if key.endswith("weight") else 0)
        else:
            weights[key] = values / 4
    return weights


def layer_norm(weights, name, x):
    centred = x - x.mean(-1, keepdim=True)
    scaled = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]


def attention(weights, name, x, heads, mask):
    batch, length, width = x.shape
    joint = x @ weights[f"{name}.in_proj_weight"].T + weights[f"{name}.in_proj_bias"]
    q, k, v = (
        part.reshape(batch, length, heads, width // heads).transpose(1, 2)
        for part in joint.split(width, dim=-1)
    )
    scores = q @ k.transpose(-1, -2) / math.sqrt(width // heads) + mask
    mixed = (scores.softmax(-1) @ v).transpose(1, 2).reshape(batch, length, width)
    return mixed @ weights[f"{name}.out_proj.weight"].T + weights[f"{name}.out_proj.bias"]


def transformer(weights, name, x, sizes, mask):
    for number in range(sizes.layers):
        block = f"{name}.resblocks.{number}"
        y = layer_norm(weights, f"{block}.ln_1", x)
        x = x + attention(weights, f"{block}.attn", y, sizes.heads, mask)
        y = layer_norm(weights, f"{block}.ln_2", x)
        y = y @ weights[f"{block}.mlp.c_fc.weight"].T + weights[f"{block}.mlp.c_fc.bias"]
        y = y * (1 + torch.erf(y / math.sqrt(2))) / 2
        x = x + y @ weights[f"{block}.mlp.c_proj.weight"].T + weights[f"{block}.mlp.c_proj.bias"]
    return x


def image_features(weights, architecture, pixels):
    """(B, D) of normalised pixels (B, 3, S, S)."""
    patches = F.unfold(pixels, architecture.patch, stride=architecture.patch).transpose(1, 2)
    x = patches @ weights["visual.conv1.weight"].flatten(1).T
    start = weights["visual.class_embedding"].expand(len(x), 1, -1)
    x = torch.cat([start, x], dim=1) + weights["visual.positional_embedding"]
    x = layer_norm(weights, "visual.ln_pre", x)
    x = transformer(weights, "visual.transformer", x, architecture.vision, 0.0)
    return layer_norm(weights, "visual.ln_post", x[:, 0]) @ weights["visual.proj"]


def text_features(weights, architecture, tokens):
    """(B, D) of tokens (B, L); read at the end mark, the highest number."""
    length = tokens.shape[1]
    mask = torch.full((length, length), -math.inf, dtype=weights["logit_scale"].dtype).triu(1)
    x = weights["token_embedding.weight"][tokens] + weights["positional_embedding"]
    x = transformer(weights, "transformer", x, architecture.text, mask)
    x = layer_norm(weights, "ln_final", x)[torch.arange(len(x)), tokens.argmax(-1)]
    return x @ weights["text_projection"]


def cosine(a, b):
    return (a * b).sum(-1) / (a.norm(dim=-1) * b.norm(dim=-1))
