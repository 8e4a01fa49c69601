"""Tries of what scores pictures, on two made-up ones, before anything long begins."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flowbp.adapters import Backbone
from flowbp.components import calling, during, is_ours, shown, wrong
from flowbp.configuration import Component
from flowbp.embeddings import CachedBackbone, MemoryStore
from flowbp.evaluation import (
    HeldOut,
    HeldOutText,
    JudgeMetric,
    PictureSet,
    RewardMetric,
    Sampling,
    generate,
    is_of_sets,
)
from flowbp.evaluation.asking import asked_columns
from flowbp.evaluation.scoring import judged, rewarded
from flowbp.rewards import Reward, UncalibratedReward
from flowbp.rewards.figures import in_parts
from flowbp.run.sizing import PictureSize
from flowbp.short_memory import is_short_memory
from flowbp.training import HeldOutFigures, Metrics
from flowbp.training.observers import EvaluationObserver, ResumableObserver, tell_one

PICTURES = 2
"""How many pictures are scored together, so that a wrong shape shows."""


def made_up_pictures(size: PictureSize, device: torch.device, *, count: int = PICTURES) -> Tensor:
    """Smooth pictures of random colours, away from black and white.

    Args:
        size: of the run's pictures.
        device: where they are wanted.
        count: how many.

    Returns:
        (count, 3, H, W) in [0, 1], the same every time.

    Example:
        >>> from flowbp.evaluation import Sampling
        >>> made_up_pictures(Sampling(steps=1, height=8, width=4), torch.device("cpu")).shape
        torch.Size([2, 3, 8, 4])
    """
    coarse = torch.rand((count, 3, 4, 4), generator=torch.Generator().manual_seed(0))
    sides = (size.height, size.width)
    smooth = torch.nn.functional.interpolate(coarse, size=sides, mode="bilinear")
    return (0.2 + 0.6 * smooth).to(device)


@contextmanager
def trying(what: str) -> Iterator[None]:
    """Try something of others: torch's random numbers stay, and short memory is no failure.

    Args:
        what: is tried, for the message.

    Raises:
        ComponentError: it failed.

    Example:
        >>> with trying("the reward"):
        ...     raise MemoryError
    """
    try:
        with torch.random.fork_rng(), during(f"a try of {what} before the run"):
            yield
    except Exception as error:
        # The run has smaller portions, and says itself where even they do not fit.
        if not is_short_memory(error):
            raise


def try_reward(reward: Reward | UncalibratedReward, images: Tensor, prompts: Sequence[str]) -> None:
    """Score pictures, and send the gradient back to them.

    Args:
        reward: any; of a sum that is yet to be calibrated each part is tried.
        images: (B, 3, H, W) in [0, 1].
        prompts: B prompts.

    Raises:
        ComponentError: it raised something, returned no finite differentiable score for each
            picture, or has a gradient that is not finite.

    Example:
        >>> try_reward(lambda images, prompts: images.mean((1, 2, 3)), torch.ones(1, 3, 2, 2), "a")
    """
    if isinstance(reward, UncalibratedReward):
        for label, part in reward.parts.items():
            _try_gradient(part.reward, images, prompts, f"reward's part `{label}`")
    else:
        _try_gradient(reward, images, prompts, "reward")


def _try_gradient(reward: Reward, images: Tensor, prompts: Sequence[str], kind: str) -> None:
    with trying(f"the {kind}"), torch.enable_grad():
        x = images.clone().requires_grad_()
        # A step of its own, as pictures come from a decoder: they may be changed in place.
        scores = in_parts(reward, x * 1, list(prompts), kind=kind).scores
        if not scores.isfinite().all():
            problem = f"must return finite scores, got {scores.tolist()} for two random pictures"
            raise wrong(kind, reward, problem, prompts)
        with calling(f"gradient of the {kind}", reward, prompts):
            (gradient,) = torch.autograd.grad(scores.sum(), x, allow_unused=True)
        if gradient is None:
            problem = "must be differentiable in the pictures, got scores that do not depend on any"
            raise wrong(kind, reward, problem, prompts)
        if not gradient.isfinite().all():
            problem = (
                "has a gradient that is not finite at random pictures; add an eps, or .float()"
            )
            raise wrong(kind, reward, problem, prompts)


def try_judge(judge: Any, images: Tensor, prompts: Sequence[str]) -> None:
    """Have pictures judged.

    Args:
        judge: any.
        images: (B, 3, H, W) in [0, 1].
        prompts: B prompts.

    Raises:
        ComponentError: it raised something, or gave no 1 or 0 for each picture.

    Example:
        >>> try_judge(lambda images, prompts: torch.ones(1), torch.ones(1, 3, 2, 2), ["a"])
    """
    with trying("the judge"):
        judged(images, list(prompts), judge)


def try_metric(label: str, metric: Any, images: Tensor, prompts: Sequence[HeldOut]) -> None:
    """Have a metric judge pictures; what the library has besides rewards and judges is left out.

    Such a metric asks a model or detector, which need have no answer to pictures of nothing.

    Args:
        label: of the metric.
        metric: of pictures or of sets.
        images: (B, 3, H, W) in [0, 1].
        prompts: B held-out prompts.

    Raises:
        ComponentError: it raised something, or returned no columns.

    Example:
        >>> from flowbp.evaluation import HeldOutPrompt
        >>> bright = lambda images, prompts: images.mean((1, 2, 3))
        >>> try_metric("bright", bright, torch.ones(1, 3, 2, 2), [HeldOutPrompt("a circle")])
    """
    texts = [HeldOutText(prompt) for prompt in prompts]
    with trying(f"the metric `{label}`"), torch.no_grad():
        if isinstance(metric, RewardMetric):
            rewarded(images, [str(text) for text in texts], metric.reward)
        elif isinstance(metric, JudgeMetric):
            judged(images, [str(text) for text in texts], metric.judge)
        elif not is_ours(metric):
            asked_columns(metric, _call(metric, images, texts, prompts), texts, label=label)


def _call(
    metric: Any, images: Tensor, texts: Sequence[str], prompts: Sequence[HeldOut]
) -> Callable[[], Any]:
    if not is_of_sets(metric):
        return lambda: metric(images, texts)
    count = len(images)
    model, base = (
        PictureSet(
            label=label, prompts=prompts, numbers=range(count), seeds=[0] * count, pictures=images
        )
        for label in ("a model", "the base")
    )
    return lambda: metric(model, base)


def try_backbone(backbone: Backbone, sampling: Any, prompt: str) -> None:
    """Sample a picture in one step.

    Args:
        backbone: any.
        sampling: of the run, for the size of its pictures.
        prompt: of the picture.

    Raises:
        ComponentError: it raised something, or returned what it must not.

    Example:
        >>> from flowbp.evaluation import Sampling
        >>> from flowbp.shapes.embedded import embedded_backbone
        >>> try_backbone(embedded_backbone(), Sampling(steps=2, height=64, width=64), "a circle")
    """
    kept = CachedBackbone(backbone, MemoryStore(), batch=1)
    with trying("the backbone"):
        one = Sampling(steps=1, height=sampling.height, width=sampling.width)
        (picture,) = generate(kept, [prompt], 0, one)
        if picture.shape[1:] != (sampling.height, sampling.width):
            must = f"must draw pictures of {sampling.height}x{sampling.width} pixels"
            raise wrong("backbone", backbone, f"{must}, got {shown(picture)}")
        if not picture.isfinite().all() or picture.amin() < 0 or picture.amax() > 1:
            problem = (
                f"must decode pictures in [0, 1], got {picture.amin():g} to {picture.amax():g}"
            )
            raise wrong("backbone", backbone, problem)


def try_observer(component: Component[Any], steps: int) -> None:
    """Build an observer in a folder that is removed afterwards, and close it.

    One that takes the folder is given made-up events besides; what others do with those, outside of
    any folder, is not known.

    Args:
        component: of the observer.
        steps: of the run.

    Raises:
        ComponentError: it raised something.
        Exception: what building it raises.

    Example:
        See `flowbp.run.checking.check`.
    """
    with tempfile.TemporaryDirectory() as folder, trying("the observers"):
        observer: Any = component.build(folder=Path(folder), steps=steps)
        try:
            if component.takes("folder"):
                for kind, event in _EVENTS:
                    if kind is None or isinstance(observer, kind):
                        tell_one(observer, event)
        finally:
            tell_one(observer, lambda each: each.close())


_ROW = Metrics(
    step=1,
    reward=0.5,
    reward_std=0.1,
    loss=-0.5,
    gradient_norm=1.0,
    learning_rate=1e-4,
    residual_0=0.0,
    residual_1=None,
    velocity_calls=4,
    seconds=1.0,
)
_ROWS = (HeldOutFigures(step=1, figures={"reward": 0.5}),)
_EVENTS: Sequence[tuple[Any, Callable[[Any], object]]] = (
    (ResumableObserver, lambda each: each.begin(())),
    (None, lambda each: each.pictures(0, torch.full((1, 3, 16, 16), 0.5), ("a circle",))),
    (None, lambda each: each.row(_ROW)),
    (EvaluationObserver, lambda each: each.evaluations(_ROWS)),
)


def try_all(
    reward: Any,
    judge: Any,
    metrics: Mapping[str, Any],
    *,
    images: Tensor,
    training: Sequence[str],
    held_out: Sequence[HeldOut],
) -> None:
    """Try all that scores pictures in a run.

    Args:
        reward: of the run.
        judge: of the run; None has none.
        metrics: of its evaluations, by label.
        images: two pictures.
        training: two prompts of the training.
        held_out: prompts that are held out; none without an evaluation.

    Raises:
        ComponentError: one failed.

    Example:
        See `flowbp.run.execution.execute`.
    """
    try_reward(reward, images, training)
    shown = list(held_out[: len(images)])
    if judge is not None and shown:
        try_judge(judge, images[: len(shown)], [prompt.text for prompt in shown])
    for label, metric in metrics.items() if shown else ():
        try_metric(label, metric, images[: len(shown)], shown)
