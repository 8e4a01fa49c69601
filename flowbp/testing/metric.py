"""Conformance of metrics and judges."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .assertions import assert_arguments, assert_within, smooth_pictures

if TYPE_CHECKING:
    from flowbp.evaluation import HeldOut, Judge, Metric, PictureSet, SetMetric

LABEL = "metric"


def check_metric(
    metric: Metric | SetMetric | Judge,
    prompts: Sequence[str | HeldOut],
    *,
    images: Tensor | None = None,
    height: int = 64,
    width: int = 64,
    device: torch.device | str = "cpu",
    tolerance: float = 1e-4,
    seed: int = 0,
) -> None:
    """Assert that an evaluation can rely on a metric or a judge.

    Its columns are (B,) numbers or NaN, with names that can be printed; they are the same at every
    call, and for every batch; a row belongs to its picture and prompt, whichever others share the
    batch and in whatever order they come. `scales` and `totals` speak of columns that there are,
    and every column outside of `totals` judges some picture. A metric of sets also judges the base
    model beside itself, reads pictures one by one, and leaves them as they are; where a column has
    a number for some pictures only, its mean is the same in whatever order the pictures come.

    Args:
        metric: to be checked; one of sets is called with `model` and `base`.
        prompts: B >= 2 texts or held-out prompts that it judges, best all different.
        images: (B, 3, H, W) in [0, 1] that it judges, in place of smooth random colours.
        height: of the random images.
        width: of the random images.
        device: of the images.
        tolerance: between batches, relative to the largest number of a column.
        seed: of the random images.

    Raises:
        AssertionError: says what does not hold.

    Example:
        >>> check_metric(lambda images, prompts: {"red": images[:, 0].mean((1, 2))}, ["a", "b"])
    """
    from flowbp.evaluation import HeldOutPrompt, is_of_sets

    if len(prompts) < 2:
        raise ValueError(
            f"`prompts` must hold at least 2, got {len(prompts)}; batches are compared"
        )
    if images is not None and images.shape[:1] != (len(prompts),):
        raise ValueError(
            f"`images` must be as many as the {len(prompts)} prompts, got shape "
            f"{tuple(images.shape)}"
        )
    assert_arguments(metric, ("images", "prompts"), ("model", "base"), kind="metric")
    given = [HeldOutPrompt(each) if isinstance(each, str) else each for each in prompts]
    of_sets = is_of_sets(metric)  # type: ignore[arg-type]
    if images is None:
        # What compares pictures of one prompt needs two of each.
        given = given * 2 if of_sets else given
        generator = torch.Generator().manual_seed(seed)
        images = smooth_pictures(len(given), height, width, generator)
    images = images.to(device)
    check = _check_sets if of_sets else _check_batches
    _check_declarations(metric, check(metric, images, given, tolerance))


def _check_batches(
    metric: Any, images: Tensor, prompts: Sequence[HeldOut], tolerance: float
) -> Mapping[str, Tensor]:
    from flowbp.evaluation.metric_runner import columns_of_pictures

    def judged(pictures: Tensor, of: Sequence[HeldOut], batch: int) -> dict[str, Tensor]:
        return _said(lambda: columns_of_pictures(metric, pictures, of, batch=batch, label=LABEL))

    count = len(prompts)
    columns = judged(images, prompts, count)
    _check_same("at a second call", judged(images, prompts, count), columns, 0)
    _check_same("one picture at a time", judged(images, prompts, 1), columns, tolerance)
    flipped = judged(images.flip(0), prompts[::-1], count)
    _check_same("in reverse order", {n: c.flip(0) for n, c in flipped.items()}, columns, tolerance)
    return columns


def _check_sets(
    metric: Any, images: Tensor, prompts: Sequence[HeldOut], tolerance: float
) -> Mapping[str, Tensor]:
    from flowbp.evaluation.metric_runner import columns_of_set

    def judged(model: PictureSet, base: PictureSet) -> dict[str, Tensor]:
        return _said(lambda: columns_of_set(metric, model, base, label=LABEL))

    order, before = list(range(len(prompts))), images.clone()
    model, base = _picture_set("model", images, prompts, order), _mirrored(images, prompts, order)
    columns = judged(model, base)
    if not torch.equal(images, before):
        raise AssertionError(
            "a metric of sets must leave the pictures as they are, and it changed them; the next "
            "metric would see that: replace operations in place"
        )
    _check_same("at a second call", judged(model, base), columns, 0)
    if judged(base, base).keys() != columns.keys():
        raise AssertionError(
            "a metric of sets must return the same columns for the base model, which is then given "
            "twice, and it returned others"
        )
    turned = order[1:] + order[:1]
    found = judged(
        _picture_set("model", images, prompts, turned), _mirrored(images, prompts, turned)
    )
    _check_same("on average in another order", _means(found), _means(columns), tolerance)
    # A number of several pictures, such as all of a prompt, may stand at the first of them.
    whole = {name: values for name, values in columns.items() if not values.isnan().any()}
    rows = {name: found[name].roll(1) for name in whole}
    _check_same("in another order", rows, whole, tolerance)
    return columns


def _means(columns: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return {name: values.nanmean()[None] for name, values in columns.items()}


def _picture_set(
    label: str, images: Tensor, prompts: Sequence[HeldOut], order: Sequence[int]
) -> PictureSet:
    """Pictures in an order; those of one prompt have seeds 0, 1 and so on."""
    from flowbp.evaluation import PictureSet
    from flowbp.evaluation.metric_runner import OnDevice

    texts = [prompt.text for prompt in prompts]
    return PictureSet(
        label=label,
        prompts=[prompts[each] for each in order],
        numbers=[texts.index(texts[each]) for each in order],
        seeds=[texts[:each].count(texts[each]) for each in order],
        # One by one, as they are read from files.
        pictures=OnDevice([images[each] for each in order], images.device),
    )


def _mirrored(images: Tensor, prompts: Sequence[HeldOut], order: Sequence[int]) -> PictureSet:
    return _picture_set("base", images.flip(-1), prompts, order)


def _said(judge: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
    from flowbp.component_errors import ComponentError

    try:
        return judge()
    except ComponentError as error:
        raise AssertionError(str(error)) from error


def _check_same(
    when: str, found: Mapping[str, Tensor], columns: Mapping[str, Tensor], tolerance: float
) -> None:
    odd = sorted(found.keys() ^ columns.keys())
    if odd:
        got = f"{odd[0]!r} besides" if odd[0] in found else f"no {odd[0]!r}"
        raise AssertionError(
            f"a metric must return the same columns {when}, got {got}; return it always, NaN where "
            "it does not judge a picture"
        )
    for name, expected in columns.items():
        unjudged = expected.isnan()
        if not torch.equal(found[name].isnan(), unjudged):
            raise AssertionError(
                f"column {name!r} must be NaN for the same pictures {when}, got "
                f"{found[name].tolist()} and {expected.tolist()}"
            )
        largest = float(expected[~unjudged].abs().max()) if not unjudged.all() else 0.0
        what = f"column {name!r} {when}"
        assert_within(what, found[name].nan_to_num(0), expected.nan_to_num(0), tolerance * largest)


def _check_declarations(metric: Any, columns: Mapping[str, Tensor]) -> None:
    from flowbp.evaluation import Scale

    scales, totals = getattr(metric, "scales", {}), getattr(metric, "totals", {})
    named = {"scales": scales} | {f"totals[{name!r}]": each for name, each in totals.items()}
    for declared, names in named.items():
        unknown = [name for name in names if name not in columns]
        if unknown:
            raise AssertionError(
                f"`{declared}` must speak of columns that there are, {', '.join(columns)}, got "
                f"{unknown[0]!r}"
            )
    for name, scale in scales.items():
        if not isinstance(scale, Scale):
            raise AssertionError(
                f"`scales[{name!r}]` must be a flowbp.evaluation.Scale, got {scale!r}"
            )
    optional = {name for total in totals.values() for name in total}
    for name, values in columns.items():
        if name in totals:
            raise AssertionError(f"`totals` must have names that no column has, got {name!r}")
        if name not in optional and bool(values.isnan().all()):
            raise AssertionError(
                f"column {name!r} must judge some picture, and is NaN for all; give prompts and "
                "`images` that it judges, or look for 0/0"
            )
