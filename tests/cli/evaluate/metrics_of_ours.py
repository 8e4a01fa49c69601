"""Metrics, rewards and judges that the tests name by dotted path."""

from __future__ import annotations

import math
import weakref

import torch

from flowbp.evaluation import PictureSet


def brightness(images, prompts):
    """A metric whose second column speaks of the first half of the prompts only."""
    mean = images.mean((1, 2, 3))
    some = [value if len(p.text) < 12 else math.nan for value, p in zip(mean, prompts, strict=True)]
    return {"brightness": mean, "of short prompts": torch.tensor(some)}


def no_crosses(images, prompts):
    """Fails at every picture of a cross."""
    for prompt in prompts:
        if "cross" in prompt.text:
            raise RuntimeError("crosses are too hard")
    return {"no_crosses": images.mean((1, 2, 3))}


def no_batches(images, prompts):
    """Fails at several pictures together, as where memory is short."""
    if len(images) > 1:
        raise RuntimeError("one at a time")
    return {"no_batches": images.mean((1, 2, 3))}


def no_tensor(images, prompts):
    """Numbers, and not as a tensor."""
    return images.mean((1, 2, 3)).tolist()


def infinite(images, prompts):
    """A metric that overflows."""
    return {"infinite": images.mean((1, 2, 3)) / 0}


def reward(images, prompts):
    """A reward of one's own, whose prompts are texts."""
    assert all(isinstance(prompt, str) for prompt in prompts)
    return -images.mean((1, 2, 3))


class Distance:
    """Of each picture from the base's, as a metric of sets."""

    def __call__(self, model: PictureSet, base: PictureSet):
        differences = [
            float((one - other).abs().mean())
            for one, other in zip(model.pictures, base.pictures, strict=True)
        ]
        return {"distance": torch.tensor(differences)}


class BrokenDistance:
    """A metric of sets that fails."""

    def __call__(self, model: PictureSet, base: PictureSet):
        raise RuntimeError("too many pictures")


class Rising:
    """A metric of sets that is higher, or lower, for every picture of a model but the base."""

    def __init__(self, sign: float = 1.0) -> None:
        self.sign = sign

    def __call__(self, model: PictureSet, base: PictureSet):
        return {"height": torch.full((len(model.keys),), self.sign * (model is not base))}


class Unbuildable:
    """A metric whose files are gone."""

    def __init__(self) -> None:
        raise FileNotFoundError("no weights here")

    def __call__(self, images, prompts):
        """Never called."""


EMBEDDED = []


def tones(images):
    """An embedding that remembers how many pictures it was shown."""
    EMBEDDED.append(len(images))
    return images.mean((2, 3)) + 0.1


def judges_nothing(images, prompts):
    """Has a column, and nothing in it."""
    return {"judges_nothing": torch.full((len(images),), math.nan)}


def other_columns(images, prompts):
    """Has a column for what it happens to see."""
    return {"cross" if "cross" in prompts[0].text else "other": images.mean((1, 2, 3))}


HELD = []


class Large:
    """What only lives as long as nobody holds it."""


def out_of_memory(images, prompts):
    """Has too little memory for several pictures."""
    large = Large()
    HELD.append(weakref.ref(large))
    if len(images) > 1:
        raise torch.OutOfMemoryError("tried to allocate 80 GiB")
    assert HELD[-2]() is None
    return {"out_of_memory": images.mean((1, 2, 3))}


COLUMNS = ["one", "two"]
CALLS_LEFT = [0]


def columns_as_they_come(images, prompts):
    """Has the columns that it is told, in that order, as often as it may be called."""
    if CALLS_LEFT[0] == 0:
        raise RuntimeError("no more")
    CALLS_LEFT[0] -= 1
    return {name: images.mean((1, 2, 3)) for name in COLUMNS}


class HalfEmpty:
    """Judges nothing in one of its two columns, which may be one of a total."""

    def __init__(self, total: bool) -> None:
        self.totals = {"all": ("full", "empty")} if total else {}

    def __call__(self, images, prompts):
        mean = images.mean((1, 2, 3))
        return {"full": mean, "empty": torch.full_like(mean, math.nan)}
