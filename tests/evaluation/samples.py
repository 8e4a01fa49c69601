"""Small values that the tests of this folder share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from flowbp.adapters import Conditioning
from flowbp.evaluation import Comparison, Evaluation, ScoreRow


class FakeBackbone:
    """A velocity that depends on the latents, sigma and the prompt, with dropout to switch off."""

    def __init__(self) -> None:
        self.module = nn.Sequential(nn.Dropout(0.5))
        self.device = torch.device("cpu")
        self.sizes: list[int] = []
        self.started: list[Tensor] = []
        self.encoded: list[list[str]] = []

    def encode(self, prompts: Sequence[str]) -> Conditioning:
        self.encoded.append(list(prompts))
        return Conditioning({"code": torch.tensor([len(prompt) / 10 for prompt in prompts])})

    def noise(self, count: int, *, height: int, width: int, generator: torch.Generator) -> Tensor:
        return torch.randn(count, 3, height, width, generator=generator)

    def sigmas(self, steps: int, *, height: int, width: int) -> Tensor:
        return torch.linspace(1, 0, steps + 1)

    def velocity(self, conditioning: Conditioning) -> Callable[[Tensor, Tensor], Tensor]:
        def field(latents: Tensor, sigma: Tensor) -> Tensor:
            self.sizes.append(len(latents))
            if sigma == 1:
                self.started.append(latents)
            return self.module(latents) * sigma + conditioning.tensors["code"].view(-1, 1, 1, 1)

        return field

    def decode(self, latents: Tensor) -> Tensor:
        return latents.sigmoid()


def mean_reward(images: Tensor, prompts: Sequence[str]) -> Tensor:
    return images.mean((1, 2, 3))


def comparison(
    rewards: Sequence[tuple[float, float]],
    verdicts: Sequence[tuple[bool, bool]] | None = None,
    *,
    kinds: Sequence[str] = ("single_object",),
    prompts: Sequence[str] = ("a circle",),
) -> Comparison:
    """A comparison of given rewards and verdicts; kinds and prompts are repeated in turn."""

    def side(which: int, label: str) -> Evaluation:
        rows = [
            ScoreRow(
                model=label,
                number=i,
                seed=3,
                prompt=prompts[i % len(prompts)],
                kind=kinds[i % len(kinds)],
                values={
                    **({} if verdicts is None else {"accuracy": float(verdicts[i][which])}),
                    "reward": pair[which],
                },
            )
            for i, pair in enumerate(rewards)
        ]
        return Evaluation(
            label=label, noise_seed=3, seconds=1.25, judged=verdicts is not None, rows=rows
        )

    return Comparison(side(0, "before"), side(1, "after"))


def metrics(steps: int) -> list[dict[str, Any]]:
    """Rows as a run writes them, the first without residuals and one with a loss of nan."""
    rows: list[dict[str, Any]] = [
        {
            "step": step,
            "reward": 0.2 + 0.001 * step,
            "loss": 0.5 / (step + 1),
            "gradient_norm": 1.0 + step % 3,
            "residual_0": 0.1,
            "residual_1": 0.05,
            "seconds": 0.5,
        }
        for step in range(steps)
    ]
    del rows[0]["residual_0"]
    rows[steps // 2]["loss"] = float("nan")
    return rows
