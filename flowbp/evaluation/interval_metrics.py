"""A metric on the pictures of an evaluation inside a run, and at which of them it fails."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import attrs
import torch
from torch import Tensor

from flowbp.evaluation.asking import Names, columns, outcomes
from flowbp.evaluation.metric import Metric
from flowbp.evaluation.set_metric import PictureSet, SetMetric

if TYPE_CHECKING:
    from flowbp.evaluation.evaluate import HeldOut


@attrs.frozen(eq=False)
class OnDevice(Sequence[Tensor]):
    """Pictures that lie on the CPU and are moved to a device one by one, when asked for.

    Args:
        images: (n, 3, H, W).
        device: where they are wanted.

    Example:
        >>> pictures = OnDevice(torch.zeros(2, 3, 4, 4), torch.device("cpu"))
        >>> len(pictures), pictures[1].shape
        (2, torch.Size([3, 4, 4]))
    """

    images: Tensor
    device: torch.device

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, number: Any) -> Any:
        return self.images[number].to(self.device)


@torch.no_grad()
def columns_of_pictures(
    metric: Metric,
    images: Sequence[Tensor] | Tensor,
    prompts: Sequence[HeldOut],
    *,
    batch: int,
) -> dict[str, Tensor]:
    """Have a metric judge pictures, some at a time.

    Args:
        metric: of single pictures.
        images: n of (3, H, W) in [0, 1].
        prompts: n, each with its kind.
        batch: pictures judged together.

    Returns:
        (n,) float64 on the CPU by the name of a column.

    Raises:
        ValueError: the metric raised an error, of whatever type, or returned no columns of one
            finite number or NaN a picture, or others for another batch; the message names the
            prompt.
        OutOfMemoryError: the device's memory is too small for `batch` pictures.

    Example:
        >>> from flowbp.evaluation.evaluate import HeldOutPrompt
        >>> bright = lambda images, prompts: {"bright": images.mean((1, 2, 3))}
        >>> columns_of_pictures(bright, torch.ones(2, 3, 2, 2), [HeldOutPrompt("a")] * 2, batch=1)
        {'bright': tensor([1., 1.], dtype=torch.float64)}
    """
    names = Names()
    found: list[dict[str, Tensor]] = []
    for start in range(0, len(prompts), batch):
        chosen = range(start, min(start + batch, len(prompts)))
        pictures = torch.stack([images[number] for number in chosen])
        found.append(_asked(metric, pictures, prompts[chosen.start : chosen.stop]))
        if not names.agree(found[-1]):
            raise ValueError(
                f"it returned the columns {', '.join(names.first) or 'none'} for one batch and "
                f"{', '.join(found[-1]) or 'none'} for another, that of {prompts[start].text!r}; "
                "return the same for every batch, NaN where one says nothing of a picture"
            )
    return {name: torch.cat([each[name] for each in found]) for name in names.first}


@torch.no_grad()
def columns_of_set(metric: SetMetric, model: PictureSet, base: PictureSet) -> dict[str, Tensor]:
    """Have a metric judge all pictures together.

    Args:
        metric: of sets of pictures.
        model: n pictures.
        base: those of the same prompts and noise before training.

    Returns:
        (n,) float64 on the CPU by the name of a column.

    Raises:
        ValueError: the metric raised an error, of whatever type, or returned no columns of one
            finite number or NaN a picture.
        OutOfMemoryError: the device's memory is too small.

    Example:
        See `flowbp.metrics.BaseDistance`.
    """
    try:
        return columns(metric(model, base), [prompt.text for prompt in model.prompts])
    except torch.OutOfMemoryError:
        raise
    # A metric is code of others, and whatever it raises is its failure.
    except Exception as error:
        raise ValueError(f"{_told(error)}; it judges all {len(model.keys)} together") from error


def _asked(metric: Metric, images: Tensor, prompts: Sequence[HeldOut]) -> dict[str, Tensor]:
    def judge(images: Tensor, prompts: Sequence[HeldOut]) -> dict[str, Tensor]:
        return columns(metric(images, prompts), [prompt.text for prompt in prompts])

    asked = outcomes(judge, images, prompts)
    together = next(asked)
    if together.error is None or isinstance(together.error, torch.OutOfMemoryError):
        return together.result()
    for alone in asked:
        if isinstance(alone.error, torch.OutOfMemoryError):
            raise alone.error
        if alone.error is not None:
            raise ValueError(
                f"{_told(alone.error)}; it failed at {alone.of[0].text!r}"
            ) from alone.error
    raise ValueError(
        f"{_told(together.error)}; it failed at {len(prompts)} pictures together, the first of "
        f"{prompts[0].text!r}, and at none of them alone"
    ) from together.error


def _told(error: Exception) -> str:
    text = "; ".join([str(error), *getattr(error, "__notes__", ())])
    # The type of those that are written for users tells nothing.
    return text if isinstance(error, ValueError) else f"{type(error).__name__}: {text}"
