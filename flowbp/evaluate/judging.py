"""One metric on some pictures: what it may return, and at which picture it fails."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from flowbp.evaluate.failing import EvaluateError, reason
from flowbp.evaluate.pictures import Shot
from flowbp.evaluation import HeldOutText, Metric, MetricFailure, PictureSet, SetMetric
from flowbp.evaluation.asking import asked_columns
from flowbp.short_memory import is_short_memory


def column(label: str, name: str) -> str:
    """The name of a metric's column among those of all metrics: its label comes first.

    Args:
        label: of the metric.
        name: as the metric has it.

    Returns:
        The name, unchanged where it is the label or begins with it and a dot.

    Example:
        >>> column("hps", "hps"), column("geneval", "counting"), column("sum", "sum.likeness.raw")
        ('hps', 'geneval.counting', 'sum.likeness.raw')
    """
    return name if name == label or name.startswith(f"{label}.") else f"{label}.{name}"


@torch.no_grad()
def judge_pictures(
    label: str, metric: Metric, images: Tensor, shots: Sequence[Shot]
) -> list[Mapping[str, float]]:
    """Call a metric, and refuse what is no set of columns.

    Args:
        label: of the metric.
        metric: of single pictures.
        images: (B, 3, H, W) in [0, 1], on its device.
        shots: which they are.

    Returns:
        Values by column, for each picture.

    Raises:
        ComponentError: the metric raised something, or returned something else.
        Exception: the metric's own where memory ran out.

    Example:
        >>> from flowbp.evaluation import HeldOutPrompt
        >>> shot = Shot("base", 0, 0, HeldOutPrompt("a circle"))
        >>> bright = lambda images, prompts: {"mean": images.mean((1, 2, 3))}
        >>> judge_pictures("bright", bright, torch.ones(1, 3, 2, 2), [shot])
        [{'bright.mean': 1.0}]
    """
    texts = [HeldOutText(shot.prompt) for shot in shots]
    return _rows(label, metric, lambda: metric(images, texts), texts)


@torch.no_grad()
def judge_set(
    label: str, metric: SetMetric, model: PictureSet, base: PictureSet, shots: Sequence[Shot]
) -> list[Mapping[str, float]]:
    """The same of all pictures of a model.

    Args:
        label: of the metric.
        metric: of sets of pictures.
        model: its pictures.
        base: those of the base model.
        shots: which those of the model are.

    Returns:
        Values by column, for each picture.

    Raises:
        ComponentError: the metric raised something, or returned something else.
        Exception: the metric's own where memory ran out.

    Example:
        See `judge_pictures`.
    """
    return _rows(label, metric, lambda: metric(model, base), [shot.prompt.text for shot in shots])


def _rows(
    label: str, metric: Any, call: Callable[[], Any], texts: Sequence[str]
) -> list[Mapping[str, float]]:
    called = partial(column, label)
    by_name = asked_columns(metric, call, texts, label=label, called=called)
    values = {name: each.tolist() for name, each in by_name.items()}
    return [{name: each[i] for name, each in values.items()} for i in range(len(texts))]


def stopped(label: str, shots: Sequence[Shot], error: Exception) -> EvaluateError:
    """What is told when a metric fails.

    Args:
        label: of the metric.
        shots: at which it failed.
        error: how.

    Returns:
        An error to raise.

    Example:
        >>> from flowbp.evaluation import HeldOutPrompt
        >>> shot = Shot("base", 0, 3, HeldOutPrompt("a circle"))
        >>> print(stopped("hps", [shot], ValueError("it is white")))
        the metric `hps` failed at the picture of 'a circle', seed 3, of the model `base`: \
ValueError: it is white; evaluation.on_failure=report goes on without what fails
    """
    first = shots[0]
    which = f"the picture of {first.prompt.text!r}, seed {first.seed},"
    if len(shots) > 1:
        which = f"{len(shots)} pictures together, the first of {first.prompt.text!r},"
    cure = "evaluation.on_failure=report goes on without what fails"
    if is_short_memory(error):
        cure = "what is done is kept, and --resume goes on"
    return EvaluateError(
        f"the metric `{label}` failed at {which} of the model `{first.model}`: {reason(error)}; "
        f"{cure}"
    )


def failure(label: str, shot: Shot, error: Exception) -> MetricFailure:
    """A failure at one picture, for the results.

    Args:
        label: of the metric.
        shot: the picture.
        error: how.

    Returns:
        The failure.

    Example:
        >>> from flowbp.evaluation import HeldOutPrompt
        >>> shot = Shot("base", 0, 3, HeldOutPrompt("a circle"))
        >>> failure("hps", shot, ValueError("it is white")).message
        'ValueError: it is white'
    """
    return MetricFailure(
        metric=label,
        message=reason(error),
        model=shot.model,
        prompt=shot.prompt.text,
        seed=shot.seed,
    )
