"""Files in the published layouts, with random weights at reduced size, and the rewards on them."""

from __future__ import annotations

import hashlib

import torch

from flowbp.rewards import AestheticScore, CLIPScore, HPSv2, PickScore, PublishedFile
from flowbp.rewards.aesthetic import head_layout

from .open_clip_oracle import TINY, random_weights


def published(path):
    content = path.read_bytes()
    digest = hashlib.sha256(content).hexdigest()
    return PublishedFile(repository="xswu/HPSv2", name=path.name, size=len(content), sha256=digest)


def save_hps(path, weights=None):
    torch.save({"state_dict": random_weights(TINY) if weights is None else weights}, path)
    return path


def head_weights(width, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {
        key: torch.randn(shape, generator=generator) / shape[-1] ** 0.5
        for key, shape in head_layout(width).items()
    }


def save_head(path, width):
    torch.save(head_weights(width), path)
    return path


def hpsv2(path, words, **options):
    """Of a file at reduced size."""
    whole = dict(source=path, tokenizer=words, published=published(path), architecture=TINY)
    return HPSv2(**(whole | options))


def build(name, folder, tmp_path, **options):
    """A reward by its name in a configuration, on a folder in CLIPModel layout or a new file."""
    if name == "hpsv2":
        return hpsv2(save_hps(tmp_path / "hps.pt"), folder, **options)
    if name == "aesthetic":
        head = save_head(tmp_path / "head.pth", 8)
        return AestheticScore(source=head, clip=folder, **options)
    return {"pickscore": PickScore, "clipscore": CLIPScore}[name](source=folder, **options)


NAMES = ("hpsv2", "pickscore", "clipscore", "aesthetic")
