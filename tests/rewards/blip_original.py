"""The mathematics of the original ImageReward in plain torch, and random weights in its keys.

Written from the papers (ViT; BERT with cross attention in every layer, as in BLIP), for tests
only; every function takes the original's state dict.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor
from torch.nn import functional as F

WIDTH, TEXT_WIDTH, LAYERS, HEADS, PATCH, SIZE, WORDS = 32, 24, 2, 2, 8, 32, 40
VISION = dict(
    hidden_size=WIDTH,
    intermediate_size=4 * WIDTH,
    num_hidden_layers=LAYERS,
    num_attention_heads=HEADS,
    image_size=SIZE,
    patch_size=PATCH,
)
TEXT = dict(
    vocab_size=WORDS,
    hidden_size=TEXT_WIDTH,
    encoder_hidden_size=WIDTH,
    intermediate_size=4 * TEXT_WIDTH,
    num_hidden_layers=LAYERS,
    num_attention_heads=HEADS,
    max_position_embeddings=40,
)


def shapes() -> dict[str, tuple[int, ...]]:
    """Key to shape, as in the published file but smaller."""
    found: dict[str, tuple[int, ...]] = {}

    def linear(name: str, out: int, into: int) -> None:
        found[f"{name}.weight"], found[f"{name}.bias"] = (out, into), (out,)

    def norm(name: str, width: int) -> None:
        found[f"{name}.weight"] = found[f"{name}.bias"] = (width,)

    eye, text = "blip.visual_encoder", "blip.text_encoder"
    found[f"{eye}.cls_token"] = (1, 1, WIDTH)
    found[f"{eye}.pos_embed"] = (1, (SIZE // PATCH) ** 2 + 1, WIDTH)
    found[f"{eye}.patch_embed.proj.weight"] = (WIDTH, 3, PATCH, PATCH)
    found[f"{eye}.patch_embed.proj.bias"] = (WIDTH,)
    for i in range(LAYERS):
        block = f"{eye}.blocks.{i}"
        norm(f"{block}.norm1", WIDTH), norm(f"{block}.norm2", WIDTH)
        linear(f"{block}.attn.qkv", 3 * WIDTH, WIDTH), linear(f"{block}.attn.proj", WIDTH, WIDTH)
        linear(f"{block}.mlp.fc1", 4 * WIDTH, WIDTH), linear(f"{block}.mlp.fc2", WIDTH, 4 * WIDTH)
    norm(f"{eye}.norm", WIDTH)
    found[f"{text}.embeddings.word_embeddings.weight"] = (WORDS, TEXT_WIDTH)
    found[f"{text}.embeddings.position_embeddings.weight"] = (40, TEXT_WIDTH)
    found[f"{text}.embeddings.position_ids"] = (1, 40)
    norm(f"{text}.embeddings.LayerNorm", TEXT_WIDTH)
    for i in range(LAYERS):
        layer = f"{text}.encoder.layer.{i}"
        for part, seen in (("attention", TEXT_WIDTH), ("crossattention", WIDTH)):
            linear(f"{layer}.{part}.self.query", TEXT_WIDTH, TEXT_WIDTH)
            linear(f"{layer}.{part}.self.key", TEXT_WIDTH, seen)
            linear(f"{layer}.{part}.self.value", TEXT_WIDTH, seen)
            linear(f"{layer}.{part}.output.dense", TEXT_WIDTH, TEXT_WIDTH)
            norm(f"{layer}.{part}.output.LayerNorm", TEXT_WIDTH)
        linear(f"{layer}.intermediate.dense", 4 * TEXT_WIDTH, TEXT_WIDTH)
        linear(f"{layer}.output.dense", TEXT_WIDTH, 4 * TEXT_WIDTH)
        norm(f"{layer}.output.LayerNorm", TEXT_WIDTH)
    linear("blip.vision_proj", 16, WIDTH), linear("blip.text_proj", 16, TEXT_WIDTH)
    widths = (TEXT_WIDTH, 1024, 128, 64, 16, 1)
    for number, (into, out) in zip((0, 2, 4, 6, 7), pairwise(widths), strict=True):
        linear(f"mlp.layers.{number}", out, into)
    return found


def random_state(seed: int = 0, scale: float = 0.2) -> dict[str, Tensor]:
    """Random weights in the original's keys, large enough that every part shows in the score."""
    generator = torch.Generator().manual_seed(seed)
    state = {}
    for key, shape in shapes().items():
        state[key] = scale * torch.randn(shape, generator=generator)
        if "norm" in key.lower() and key.endswith("weight"):
            state[key] += 1
    state["blip.text_encoder.embeddings.position_ids"] = torch.arange(40)[None]
    return state


def score(state: dict[str, Tensor], pixels: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
    """The published score (B,) of normalised pictures (B, 3, S, S) and tokens (B, L)."""
    patches = see(state, pixels)
    h = read(state, ids, mask, patches)[:, 0]
    for number in (0, 2, 4, 6, 7):
        h = _linear(state, f"mlp.layers.{number}", h)
    return (h[:, 0] - 0.16717362830052426) / 1.0333394966054072


def see(state: dict[str, Tensor], pixels: Tensor) -> Tensor:
    eye = "blip.visual_encoder"
    kernel = state[f"{eye}.patch_embed.proj.weight"]
    x = F.conv2d(pixels, kernel, state[f"{eye}.patch_embed.proj.bias"], stride=PATCH)
    x = x.flatten(2).mT
    x = torch.cat([state[f"{eye}.cls_token"].expand(len(x), -1, -1), x], 1)
    x = x + state[f"{eye}.pos_embed"]
    for i in range(LAYERS):
        block = f"{eye}.blocks.{i}"
        h = _norm(state, f"{block}.norm1", x, 1e-6)
        q, k, v = _linear(state, f"{block}.attn.qkv", h).chunk(3, -1)
        x = x + _linear(state, f"{block}.attn.proj", _attend(q, k, v))
        h = _linear(state, f"{block}.mlp.fc1", _norm(state, f"{block}.norm2", x, 1e-6))
        x = x + _linear(state, f"{block}.mlp.fc2", F.gelu(h))
    return _norm(state, f"{eye}.norm", x, 1e-6)


def read(state: dict[str, Tensor], ids: Tensor, mask: Tensor, patches: Tensor) -> Tensor:
    text = "blip.text_encoder"
    x = state[f"{text}.embeddings.word_embeddings.weight"][ids]
    x = x + state[f"{text}.embeddings.position_embeddings.weight"][: ids.shape[1]]
    x = _norm(state, f"{text}.embeddings.LayerNorm", x, 1e-12)
    hidden = torch.zeros(mask.shape, dtype=x.dtype).masked_fill(mask == 0, -torch.inf)
    for i in range(LAYERS):
        layer = f"{text}.encoder.layer.{i}"
        for part, seen, bias in (
            ("attention", None, hidden[:, None, None]),
            ("crossattention", patches, torch.zeros(())),
        ):
            seen = x if seen is None else seen
            q = _linear(state, f"{layer}.{part}.self.query", x)
            k = _linear(state, f"{layer}.{part}.self.key", seen)
            v = _linear(state, f"{layer}.{part}.self.value", seen)
            h = _linear(state, f"{layer}.{part}.output.dense", _attend(q, k, v, bias))
            x = _norm(state, f"{layer}.{part}.output.LayerNorm", x + h, 1e-12)
        h = F.gelu(_linear(state, f"{layer}.intermediate.dense", x))
        h = _linear(state, f"{layer}.output.dense", h)
        x = _norm(state, f"{layer}.output.LayerNorm", x + h, 1e-12)
    return x


def _attend(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | float = 0.0) -> Tensor:
    q, k, v = (t.unflatten(-1, (HEADS, -1)).transpose(1, 2) for t in (q, k, v))
    weights = (q @ k.mT / q.shape[-1] ** 0.5 + bias).softmax(-1)
    return (weights @ v).transpose(1, 2).flatten(2)


def _linear(state: dict[str, Tensor], name: str, x: Tensor) -> Tensor:
    return F.linear(x, state[f"{name}.weight"], state[f"{name}.bias"])


def _norm(state: dict[str, Tensor], name: str, x: Tensor, eps: float) -> Tensor:
    return F.layer_norm(x, x.shape[-1:], state[f"{name}.weight"], state[f"{name}.bias"], eps)
