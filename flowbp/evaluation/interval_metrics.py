"""A metric on the pictures of an evaluation inside a run, and at which of them it fails."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import attrs
import torch
from torch import Tensor

from flowbp.components import ComponentError, wrong
from flowbp.evaluation.asking import Names, asked_columns, outcomes
from flowbp.evaluation.evaluate import HeldOutText
from flowbp.evaluation.metric import Metric
from flowbp.evaluation.set_metric import PictureSet, SetMetric
from flowbp.short_memory import is_short_memory

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
    label: str,
) -> dict[str, Tensor]:
    """Have a metric judge pictures, some at a time.

    Args:
        metric: of single pictures.
        images: n of (3, H, W) in [0, 1].
        prompts: n, each with its kind.
        batch: pictures judged together.
        label: of the metric, which a column has that comes without a name.

    Returns:
        (n,) float64 on the CPU by the name of a column.

    Raises:
        ComponentError: the metric raised an error, of whatever type, or returned no columns of one
            finite number or NaN a picture, or others for another batch; the message names the
            prompt.
        Exception: the metric's own where memory ran out.

    Example:
        >>> from flowbp.evaluation.evaluate import HeldOutPrompt
        >>> bright = lambda images, prompts: {"bright": images.mean((1, 2, 3))}
        >>> columns_of_pictures(bright, torch.ones(2, 3, 2, 2), [HeldOutPrompt("a")] * 2, batch=1,
        ...                     label="mine")
        {'bright': tensor([1., 1.], dtype=torch.float64)}
    """
    names = Names()
    found: list[dict[str, Tensor]] = []
    for start in range(0, len(prompts), batch):
        chosen = range(start, min(start + batch, len(prompts)))
        pictures = torch.stack([images[number] for number in chosen])
        found.append(_asked(metric, pictures, prompts[chosen.start : chosen.stop], label))
        if not names.agree(found[-1]):
            problem = (
                f"returned the columns {', '.join(names.first) or 'none'} for one batch and "
                f"{', '.join(found[-1]) or 'none'} for another; return the same for every batch, "
                "NaN where one says nothing of a picture"
            )
            raise wrong(f"metric `{label}`", metric, problem, [prompts[start].text])
    return {name: torch.cat([each[name] for each in found]) for name in names.first}


@torch.no_grad()
def columns_of_set(
    metric: SetMetric, model: PictureSet, base: PictureSet, *, label: str
) -> dict[str, Tensor]:
    """Have a metric judge all pictures together.

    Args:
        metric: of sets of pictures.
        model: n pictures.
        base: those of the same prompts and noise before training.
        label: of the metric, which a column has that comes without a name.

    Returns:
        (n,) float64 on the CPU by the name of a column.

    Raises:
        ComponentError: the metric raised an error, of whatever type, or returned no columns of one
            finite number or NaN a picture.
        Exception: the metric's own where memory ran out.

    Example:
        See `flowbp.metrics.BaseDistance`.
    """
    texts = [prompt.text for prompt in model.prompts]
    return asked_columns(metric, lambda: metric(model, base), texts, label=label)


def _asked(
    metric: Metric, images: Tensor, prompts: Sequence[HeldOut], label: str
) -> dict[str, Tensor]:
    def judge(images: Tensor, prompts: Sequence[HeldOut]) -> dict[str, Tensor]:
        texts = [HeldOutText(prompt) for prompt in prompts]
        return asked_columns(metric, lambda: metric(images, texts), texts, label=label)

    asked = outcomes(judge, images, prompts)
    together = next(asked)
    if together.error is None or is_short_memory(together.error):
        return together.result()
    for alone in asked:
        if alone.error is not None:
            raise alone.error
    if isinstance(together.error, ComponentError):
        together.error.problem += "; of none of these pictures alone it does"
    raise together.error
