"""Sample held-out prompts, score them, and have them judged."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

import attrs
import torch
from torch import Tensor

from flowbp.evaluation.before_after import ACCURACY, Evaluation
from flowbp.evaluation.sampling import Progress, Sampling, generate_batches
from flowbp.evaluation.scores import ScoreRow
from flowbp.evaluation.scoring import judged, rewarded
from flowbp.evaluation.validators import not_empty

if TYPE_CHECKING:
    from flowbp.adapters.backbone import Backbone
    from flowbp.evaluation.metric import Judge
    from flowbp.rewards.reward import Reward


class HeldOut(Protocol):
    """A prompt that knows its kind: anything with `text` and `kind`."""

    @property
    def text(self) -> str:
        """The words given to the model."""

    @property
    def kind(self) -> str:
        """The group it is counted in."""


@attrs.frozen
class HeldOutPrompt:
    """The plain `HeldOut` prompt, for lists that come from a file.

    Args:
        text: the words given to the model.
        kind: the group it is counted in.

    Example:
        >>> HeldOutPrompt("a circle").kind
        'prompts'
    """

    text: str = attrs.field(validator=not_empty)
    kind: str = attrs.field(default="prompts", validator=not_empty)


class HeldOutText(str):
    """The text of a held-out prompt, with whatever else the prompt has."""

    _prompt: HeldOut

    def __new__(cls, prompt: HeldOut) -> HeldOutText:
        """Take the prompt's text, and keep the prompt."""
        text = super().__new__(cls, prompt.text)
        text._prompt = prompt
        return text

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return getattr(self._prompt, name)


class _OfKind(Protocol):
    @property
    def kind(self) -> str: ...


_Prompt = TypeVar("_Prompt", bound=_OfKind)


def spread(prompts: Sequence[_Prompt], count: int | None) -> tuple[_Prompt, ...]:
    """Choose prompts evenly over the list, each kind by its share of it."""
    if count is None:
        return tuple(prompts)
    if not 1 <= count <= len(prompts):
        raise ValueError(f"`count` must be in [1, {len(prompts)}], got {count}")
    order = {kind: place for place, kind in enumerate(dict.fromkeys(p.kind for p in prompts))}
    # By kind first: where kinds take turns, even spacing over the list could meet one kind only.
    by_kind = sorted(range(len(prompts)), key=lambda i: (order[prompts[i].kind], i))
    chosen = sorted(by_kind[(2 * i + 1) * len(prompts) // (2 * count)] for i in range(count))
    return tuple(prompts[i] for i in chosen)


def evaluate(
    backbone: Backbone,
    reward: Reward,
    judge: Judge | None,
    prompts: Sequence[HeldOut],
    *,
    sampling: Sampling,
    noise_seed: int,
    label: str,
    progress: Progress | None = None,
) -> tuple[Evaluation, Tensor]:
    """Sample one picture per prompt, score it, and have it judged; pictures are (n, 3, H, W)."""
    texts = [prompt.text for prompt in prompts]
    rows: list[ScoreRow] = []
    images = []
    start = time.perf_counter()
    for chosen, batch in generate_batches(backbone, texts, noise_seed, sampling):
        scored = _scored(batch, texts[chosen], reward, judge)
        columns = {name: values.tolist() for name, values in scored.items()}
        for place, number in enumerate(range(chosen.start, chosen.stop)):
            rows.append(
                ScoreRow(
                    model=label,
                    number=number,
                    seed=noise_seed,
                    prompt=texts[number],
                    kind=prompts[number].kind,
                    values={name: values[place] for name, values in columns.items()},
                )
            )
        images.append(batch.cpu())
        if progress is not None:
            progress(chosen.stop, len(texts))
    evaluation = Evaluation(
        label=label,
        noise_seed=noise_seed,
        seconds=time.perf_counter() - start,
        judged=judge is not None,
        rows=rows,
    )
    return evaluation, torch.cat(images)


def _scored(
    images: Tensor, texts: Sequence[str], reward: Reward, judge: Judge | None
) -> Mapping[str, Tensor]:
    scored = rewarded(images, texts, reward)
    if judge is None:
        return scored
    if ACCURACY in scored:
        raise ValueError(
            f"`{ACCURACY}` is a part of the reward and the judge's verdict; rename the part"
        )
    return {ACCURACY: judged(images, texts, judge), **scored}
