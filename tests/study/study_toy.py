"""A linear flow in float64 whose gradients and gains are known, as components of a YAML."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import attrs
import torch
from torch import Tensor, nn

from flowbp.adapters import Conditioning
from flowbp.core import DRaFT, Linear
from flowbp.training import Batching, TrainingSampling, TrainingStep

DECAY = torch.tensor([0.0, 1.0, 4.0], dtype=torch.float64).view(3, 1, 1)
STEPS = 4
PROMPTS = [f"goal {number}" for number in range(12)]


def goal(prompt: str) -> Tensor:
    """The picture (3, 1, 1) that a prompt asks for."""
    number = int(prompt.split()[1])
    return torch.tensor([1.0, 2.0 + 0.1 * number, -1.0], dtype=torch.float64).view(3, 1, 1)


class Flow:
    """`v = decay x - w`, with w (3, 1, 1) trained: the sample is linear in w."""

    device = torch.device("cpu")

    def __init__(self, start: float = 0.0) -> None:
        self.module = nn.Module()
        value = torch.full((3, 1, 1), start, dtype=torch.float64)
        self.module.weight = nn.Parameter(value)

    def encode(self, prompts: Sequence[str]) -> Conditioning:
        return Conditioning({"ones": torch.ones(len(prompts), 1, dtype=torch.float64)})

    def noise(self, count: int, *, height: int, width: int, generator: torch.Generator) -> Tensor:
        return torch.randn(count, 3, 1, 1, generator=generator, dtype=torch.float64)

    def sigmas(self, steps: int, *, height: int, width: int) -> Tensor:
        return torch.linspace(1, 0, steps + 1, dtype=torch.float64)

    def velocity(self, conditioning: Conditioning):
        return lambda latents, sigma: DECAY * latents - self.module.weight

    def decode(self, latents: Tensor) -> Tensor:
        return latents

    def trainable(self):
        return dict(self.module.named_parameters())

    def save(self, folder: Path) -> None:
        torch.save(self.module.state_dict(), folder / "weights.pt")


def flow(*, start: float = 0.0) -> Flow:
    return Flow(start)


def nearness(images: Tensor, prompts: Sequence[str]) -> Tensor:
    """Minus half the squared distance to the goal."""
    goals = torch.stack([goal(prompt) for prompt in prompts])
    return -(images - goals).square().sum((1, 2, 3)) / 2


def near(images: Tensor, prompts: Sequence[str]) -> Tensor:
    """A verdict: within 2 of the goal."""
    return (nearness(images, prompts) > -2).double()


@attrs.frozen
class Held:
    text: str
    kind: str = "goals"


@attrs.frozen
class Goals:
    """Prompts, to train on and held out."""

    def stream(self, generator: torch.Generator):
        while True:
            yield PROMPTS[int(torch.randint(len(PROMPTS), (), generator=generator))]

    def prompts(self) -> tuple[Held, ...]:
        return tuple(Held(text) for text in PROMPTS * 2)


def failing(images: Tensor, prompts: Sequence[str]) -> Tensor:
    raise RuntimeError("no reward today")


WHOLE = DRaFT(last=STEPS)


def toy_step(method=WHOLE, **changes):
    """A step of the toy, of the exact gradient unless said otherwise."""
    parts = {
        "backbone": Flow(),
        "reward": nearness,
        "method": method,
        "shape": Linear(),
        "sampling": TrainingSampling(steps=STEPS, guidance=1.0, height=1, width=1),
        "batching": Batching(4),
    }
    return TrainingStep(**{**parts, **changes})
