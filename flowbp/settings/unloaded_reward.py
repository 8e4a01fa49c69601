"""A configured reward without its weights, as far as its sizes are known before it is loaded."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import attrs
from torch import Tensor

from flowbp.adapters import DtypePolicy
from flowbp.config import Component
from flowbp.extras import require
from flowbp.place import on_disk
from flowbp.rewards import ClipReward, HPSv2, PickScore
from flowbp.rewards.clip import ClipTower
from flowbp.rewards.clip_model import VIT_H_14
from flowbp.settings.unloaded_model import META
from flowbp.shapes.embedded import embedded_reward, reward_folder


@attrs.frozen(eq=False)
class PicturesAlone:
    """A reward that reads pictures and no prompts: what takes memory in a step of a `ClipReward`.

    The embeddings of prompts are computed once, and without gradient.
    """

    tower: ClipTower

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """A number for each picture."""
        return self.tower.embed_images(images).sum(-1)


def reward_sketch(component: Component[Any]) -> PicturesAlone | None:
    """A reward by a CLIP model without weights; None of others, whose sizes are not known."""
    target, given = component.target, component.completed
    source = reward_folder() if target is embedded_reward else given.get("source")
    known = target in (HPSv2, PickScore, embedded_reward, ClipReward.from_pretrained)
    if not known or source is None:
        return None
    folder = on_disk(source)
    if folder is not None and folder.is_dir():
        transformers = require("transformers")
        config = transformers.CLIPConfig.from_pretrained(str(folder))
        with META:
            model = transformers.CLIPModel(config)
    elif target in (HPSv2, PickScore):
        model = VIT_H_14.model()
    else:
        return None
    policy = given.get("policy", DtypePolicy())
    return PicturesAlone(
        ClipTower(model=model, batch=given.get("batch"), policy=policy, device=META)
    )
