"""Sample held-out prompts, score them, and have them judged."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import attrs
import torch
from torch import Tensor

from flowbp.evaluation.generate import Progress, Sampling, generate_batches
from flowbp.evaluation.records import Evaluation, Record
from flowbp.evaluation.scoring import WHOLE, judged, rewarded
from flowbp.evaluation.validators import not_empty

if TYPE_CHECKING:
    from flowbp.adapters.backbone import Backbone
    from flowbp.rewards.reward import Reward


class Judge(Protocol):
    """Passes or fails pictures: the held-out verdict, never a training signal."""

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Judge pictures ``(B, 3, H, W)`` in [0, 1]; returns ``(B,)`` of 1 (pass) and 0 (fail)."""


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
    """The text of a held-out prompt, with whatever else the prompt has.

    What is called with pictures and prompts may take the latter for texts or for `HeldOut`s.

    Args:
        prompt: a `HeldOut`.

    Example:
        >>> text = HeldOutText(HeldOutPrompt("a circle", "single_object"))
        >>> text == "a circle", text.text, text.kind
        (True, 'a circle', 'single_object')
    """

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
    """Sample one picture per prompt, score it, and have it judged.

    Two calls with the same prompts, `sampling` and `noise_seed` start from the same noise, so that
    their difference is the models' alone.

    Args:
        backbone: the model.
        reward: the score that is trained on.
        judge: the held-out verdict; None when there is none.
        prompts: what to sample, each with its kind.
        sampling: steps, size, guidance and batch size.
        noise_seed: seed of the noise.
        label: name of this evaluation, such as "before".
        progress: called after every batch.

    Returns:
        The records and the pictures ``(n, 3, H, W)`` in [0, 1], float32, on the CPU.

    Raises:
        ComponentError: reward or judge raised something, a score or part of it is not finite, a
            verdict is neither 0 nor 1, or either has the wrong shape; the message names the prompt.

    Example:
        >>> from types import SimpleNamespace
        >>> toy = SimpleNamespace(
        ...     module=torch.nn.Identity(),
        ...     device=torch.device("cpu"),
        ...     encode=lambda prompts: torch.zeros(len(prompts), 1),
        ...     noise=lambda count, *, height, width, generator: torch.randn(
        ...         count, 3, height, width, generator=generator
        ...     ),
        ...     sigmas=lambda steps, *, height, width: torch.linspace(1, 0, steps + 1),
        ...     velocity=lambda conditioning: lambda latents, sigma: latents,
        ...     decode=torch.sigmoid,
        ... )
        >>> evaluation, images = evaluate(
        ...     toy,
        ...     lambda images, prompts: images.mean((1, 2, 3)),
        ...     lambda images, prompts: (images.mean((1, 2, 3)) > 0).float(),
        ...     [HeldOutPrompt("a circle"), HeldOutPrompt("a square")],
        ...     sampling=Sampling(steps=2, height=4, width=4),
        ...     noise_seed=0,
        ...     label="before",
        ... )
        >>> [record.passed for record in evaluation.records], images.shape
        ([True, True], torch.Size([2, 3, 4, 4]))
    """
    texts = [prompt.text for prompt in prompts]
    records: list[Record] = []
    images = []
    start = time.perf_counter()
    for chosen, batch in generate_batches(backbone, texts, noise_seed, sampling):
        scores = rewarded(batch, texts[chosen], reward)
        columns = {name: figures.tolist() for name, figures in scores.items()}
        rewards = columns.pop(WHOLE)
        for place, verdict in enumerate(_verdicts(batch, texts[chosen], judge)):
            prompt = prompts[chosen.start + place]
            records.append(
                Record(
                    index=chosen.start + place,
                    prompt=prompt.text,
                    kind=prompt.kind,
                    reward=rewards[place],
                    passed=verdict,
                    parts={name: figures[place] for name, figures in columns.items()},
                )
            )
        images.append(batch.cpu())
        if progress is not None:
            progress(chosen.stop, len(texts))
    seconds = time.perf_counter() - start
    evaluation = Evaluation(label=label, noise_seed=noise_seed, seconds=seconds, records=records)
    return evaluation, torch.cat(images)


def _verdicts(images: Tensor, texts: Sequence[str], judge: Judge | None) -> Sequence[bool | None]:
    if judge is None:
        return [None] * len(texts)
    return [verdict == 1 for verdict in judged(images, texts, judge).tolist()]
