"""Configured rewards without their weights, as far as sizes are known before they are loaded."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import suppress
from typing import Any

import attrs
import torch
from torch import Tensor

from flowbp.adapters import DtypePolicy
from flowbp.component_errors import is_ours
from flowbp.config import Component
from flowbp.extras import require
from flowbp.place import on_disk
from flowbp.rewards import ClipReward, HPSv2, PickScore
from flowbp.rewards.clip import ClipTower
from flowbp.rewards.clip_model import VIT_H_14
from flowbp.settings.component_needs import nested, towers_of
from flowbp.settings.preflight import SCORERS
from flowbp.settings.schema import Settings
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


def other_scorers(
    settings: Settings, replaced: Collection[str] = ()
) -> tuple[list[PicturesAlone], list[str]]:
    """What judges and measures pictures on the device: sketches, and those of unknown size.

    What several read alike is there once. Of flowbp's own, what reads nothing has no network.
    """
    sketches = list[PicturesAlone]()
    unknown = [f"the {each}" for each in SCORERS if each != "reward" and each in replaced]
    there = set() if "reward" in replaced else {_shared(e) for _, e in nested(settings.reward)}
    for name, each in _others(settings, replaced):
        shared, found = _shared(each), None
        if shared is not None and shared in there:
            continue
        there.add(shared)
        # What is wrong with its files is reported by what loads it.
        with suppress(Exception):
            found = reward_sketch(each)
        if found is None:
            unknown.append(name)
        else:
            sketches.append(found)
    return sketches, list(dict.fromkeys(unknown))


def _others(settings: Settings, replaced: Collection[str]) -> Iterator[tuple[str, Component[Any]]]:
    for provider, scorers in SCORERS.items():
        if provider == "reward" or provider in replaced:
            continue
        for path, component in scorers(settings):
            name = f"the {provider}" if len(path) == 1 else f"the metric {path[-1]}"
            yield from ((name, each) for _, each in nested(component) if _has_network(each))


def _has_network(component: Component[Any]) -> bool:
    """Whether it may have one of its own: it reads files, or is of others."""
    return callable(getattr(component.target, "needs", None)) or not is_ours(component.target)


def _shared(component: Component[Any]) -> tuple[frozenset[str], torch.dtype] | None:
    """The pretrained models that it shares with others, and their precision; None without any."""
    towers = towers_of(component)
    if not towers:
        return None
    policy = component.completed.get("policy")
    return towers, policy.weights if isinstance(policy, DtypePolicy) else DtypePolicy().weights
