"""Sample held-out prompts, score them, and have them judged."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

import attrs
import torch
from torch import Tensor

from flowbp.evaluation.generate import Progress, Sampling, generate_batches
from flowbp.evaluation.records import Evaluation, Record
from flowbp.evaluation.validators import not_empty
from flowbp.rewards.figures import in_parts

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
        ValueError: when a score or part of it is not finite, a verdict is neither 0 nor 1, or
            either has the wrong shape; the message names the prompt.

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
        rewards, parts = _rewards(batch, texts[chosen], reward)
        verdicts = _verdicts(batch, texts[chosen], judge)
        records += [
            Record(index=i, prompt=texts[i], kind=prompts[i].kind, reward=r, passed=p, parts=f)
            for i, r, p, f in zip(
                range(chosen.start, chosen.stop), rewards, verdicts, parts, strict=True
            )
        ]
        images.append(batch.cpu())
        if progress is not None:
            progress(chosen.stop, len(texts))
    seconds = time.perf_counter() - start
    evaluation = Evaluation(label=label, noise_seed=noise_seed, seconds=seconds, records=records)
    return evaluation, torch.cat(images)


@torch.no_grad()
def _rewards(
    images: Tensor, texts: Sequence[str], reward: Reward
) -> tuple[list[float], list[Mapping[str, float]]]:
    found = in_parts(reward, images, texts)
    parts = {name: _numbers(name, figures, texts) for name, figures in found.parts.items()}
    rewards = _numbers("reward", found.scores, texts)
    # The parts first: one of them is why the whole is not finite.
    for name, scores in (*parts.items(), ("reward", rewards)):
        for score, text in zip(scores, texts, strict=True):
            if not math.isfinite(score):
                raise ValueError(
                    f"`{name}` of the prompt {text!r} must be finite, got {score}; look for "
                    "pictures with pixels that are not finite, or for a reward that overflows in "
                    "low precision"
                )
    return rewards, [{name: parts[name][i] for name in parts} for i in range(len(texts))]


@torch.no_grad()
def _verdicts(images: Tensor, texts: Sequence[str], judge: Judge | None) -> Sequence[bool | None]:
    if judge is None:
        return [None] * len(texts)
    verdicts = _numbers("judge", judge(images, texts), texts)
    for verdict, text in zip(verdicts, texts, strict=True):
        if verdict not in (0.0, 1.0):
            raise ValueError(
                f"`judge` must give the prompt {text!r} a 1 (pass) or a 0 (fail), got {verdict}; "
                "compare a graded score with a threshold first"
            )
    return [verdict == 1.0 for verdict in verdicts]


def _numbers(name: str, scores: Tensor, texts: Sequence[str]) -> list[float]:
    if scores.shape != (len(texts),):
        raise ValueError(
            f"`{name}` must return one number per picture, shape ({len(texts)},), got "
            f"{tuple(scores.shape)}; the first prompt of the batch is {texts[0]!r}"
        )
    return [float(score) for score in scores.double().tolist()]
