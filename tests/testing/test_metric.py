"""The metric check passes on sound metrics, and finds each fault of a broken one."""

from __future__ import annotations

from types import MappingProxyType

import pytest
import torch

from flowbp.evaluation import HeldOutPrompt, Scale
from flowbp.evaluation.metrics import BaseDistance, Diversity, PixelDistance
from flowbp.testing import check_metric

PROMPTS = ["red", "a green one", HeldOutPrompt("blue", kind="colours")]
NAN = float("nan")


def brightness(images, prompts):
    return {
        "brightness": images.mean((1, 2, 3)),
        "letters": torch.tensor([len(p) for p in prompts]),
    }


def is_bright(images, prompts):
    return (images.mean((1, 2, 3)) > 0.5).double()


def of_kinds(images, prompts):
    """NaN but for one kind of prompts."""
    judged = torch.tensor([each.kind == "colours" for each in prompts])
    return {"red": torch.where(judged, images[:, 0].mean((1, 2)), NAN)}


class Similarity:
    scales = MappingProxyType({"similarity": Scale(sign=0)})

    def __call__(self, model, base):
        pairs = zip(model.pictures, base.pictures, strict=True)
        return {"similarity": torch.stack([(one - other).norm() for one, other in pairs])}


class Spread:
    """The distance of each picture from the next one of its prompt."""

    def __call__(self, model, base):
        found = []
        for number, picture in zip(model.numbers, model.pictures, strict=True):
            own = [p for n, p in zip(model.numbers, model.pictures, strict=True) if n == number]
            found.append(torch.stack([(picture - each).norm() for each in own]).sum())
        return {"spread": torch.stack(found)}


def points(images):
    return images.mean((2, 3))


@pytest.mark.parametrize(
    "metric",
    [
        brightness,
        is_bright,
        of_kinds,
        Similarity(),
        Spread(),
        Diversity(embedding=points),
        BaseDistance(embedding=points),
        PixelDistance(),
    ],
)
def test_a_sound_metric_passes(metric):
    check_metric(metric, PROMPTS, height=16, width=24)


def test_given_pictures_are_judged():
    def is_white(images, prompts):
        return {"white": torch.where(images.amin((1, 2, 3)) == 1, 1.0, NAN)}

    check_metric(is_white, PROMPTS, images=torch.ones(3, 3, 8, 8))
    with pytest.raises(AssertionError, match="column 'white' must judge some picture, and is NaN"):
        check_metric(is_white, PROMPTS)


class With:
    """A metric of brightness with attributes."""

    def __init__(self, **attributes):
        vars(self).update(attributes)

    def __call__(self, images, prompts):
        return brightness(images, prompts)


class Counting:
    """Remembers how many pictures it has seen."""

    seen = 0

    def __call__(self, images, prompts):
        self.seen += len(prompts)
        return {"seen": torch.full((len(prompts),), float(self.seen))}


def by_kind(images, prompts):
    """A column for each kind in the batch."""
    return {each.kind: images.mean((1, 2, 3)) for each in prompts}


def more_of_one(images, prompts):
    found = images.mean((1, 2, 3))
    return {"all": found, "more": found} if len(prompts) == 1 else {"all": found}


def fewer_of_one(images, prompts):
    found = images.mean((1, 2, 3))
    return {"all": found} if len(prompts) == 1 else {"all": found, "more": found}


def misnamed(pictures, texts):
    return brightness(pictures, texts)


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        (lambda x, p: {"all": x.mean()}, r"`all` must return one number per picture, shape"),
        (lambda x, p: {"all": [0.5] * len(p)}, "one number per picture"),
        (lambda x, p: [0.5] * len(p), "one number per picture as a tensor, or such columns"),
        (lambda x, p: {"all": x.mean((1, 2, 3)) / 0}, "must return finite numbers in `all`"),
        (lambda x, p: {"all": x.mean((1, 2, 3)) * NAN}, "'all' must judge some picture"),
        (lambda x, p: {"a\nb": x.mean((1, 2, 3))}, "name its columns by printable texts"),
        (lambda x, p: p.missing, "AttributeError"),
        (lambda x, p: {"r": torch.rand(len(p))}, "'r' at a second call"),
        (Counting(), "'seen' at a second call"),
        (lambda x, p: {"r": (x - x.mean(0)).mean((1, 2, 3))}, "'r' one picture at a time"),
        (lambda x, p: {"r": brightness(x, sorted(p))["letters"]}, "'r' one picture at a time"),
        (lambda x, p: {"n": torch.tensor([NAN, 1, 1])[: len(p)]}, "NaN for the same pictures"),
        (by_kind, "the same for every batch"),
        (more_of_one, "the same columns one picture at a time, got 'more' besides"),
        (fewer_of_one, "the same columns one picture at a time, got no 'more'"),
        (misnamed, "must have the arguments `images` and `prompts`, or `model` and `base`, got"),
        (With(scales={"bright": Scale()}), "`scales` must speak of columns .*, got 'bright'"),
        (With(scales={"letters": 1}), r"`scales\['letters'\]` must be a .*Scale, got 1"),
        (With(totals={"all": ["red"]}), r"`totals\['all'\]` must speak of columns .* 'red'"),
        (With(totals={"letters": ["brightness"]}), "names that no column has, got 'letters'"),
    ],
)
def test_a_fault_is_found_and_named(metric, message):
    with pytest.raises(AssertionError, match=message):
        check_metric(metric, PROMPTS, height=16, width=16)


def all_at_once(model, base):
    return {"r": model.pictures.mean((1, 2, 3))}


def one_of_all(model, base):
    return {"r": torch.stack(list(model.pictures)).mean()[None]}


def first_as_base(model, base):
    first = model.pictures[0]
    return {"r": torch.stack([(each - first).norm() for each in model.pictures])}


def of_another_row(model, base):
    return {"r": torch.stack([each.mean() for each in model.pictures]).flip(0)}


def in_order_of_size(model, base):
    return {"r": torch.stack([each.mean() for each in model.pictures]).sort().values}


def not_of_the_base(model, base):
    own = torch.stack([each.mean() for each in model.pictures])
    return {"r": own} if model is not base else {"r": own, "base": own}


def in_place(model, base):
    return {"r": torch.stack([each.sub_(0.5).mean() for each in model.pictures])}


@pytest.mark.parametrize(
    ("metric", "message"),
    [
        (in_place, "must leave the pictures as they are"),
        (all_at_once, "AttributeError: 'OnDevice' object has no attribute 'mean'"),
        (one_of_all, r"one number per picture, shape \(6,\)"),
        (first_as_base, "'r' on average in another order"),
        (of_another_row, "'r' in another order"),
        (in_order_of_size, "'r' in another order"),
        (not_of_the_base, "must return the same columns for the base model"),
    ],
)
def test_a_fault_of_a_metric_of_sets_is_found(metric, message):
    with pytest.raises(AssertionError, match=message):
        check_metric(metric, PROMPTS, height=16, width=16)


def test_too_little_to_compare_is_refused():
    with pytest.raises(ValueError, match="`prompts` must hold at least 2, got 1"):
        check_metric(brightness, ["one"])
    with pytest.raises(ValueError, match=r"as many as the 3 prompts, got shape \(2, 3, 8, 8\)"):
        check_metric(brightness, PROMPTS, images=torch.ones(2, 3, 8, 8))
