"""A tiny flow model in float64, a reward, and what a test puts around them."""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import attrs
import torch
from torch import Tensor, nn

from flowbp.adapters import Conditioning, Reference
from flowbp.core import Linear, Sparse, VelocityField
from flowbp.training import AdamW, Batching, PromptList, Trainer, TrainingSampling, TrainingStep

PROMPTS = ("red", "green", "blue", "a grey sky", "rust")
CHANNELS, WIDTH = 2, 3


def code(prompt: str) -> Tensor:
    """Three numbers in [0, 1) that stand for a prompt, (3,)."""
    digest = hashlib.sha256(prompt.encode()).digest()
    return torch.tensor(list(digest[:WIDTH]), dtype=torch.float64) / 256


class Network(nn.Module):
    """`tanh(W x + U c + sigma b)`, mixed over channels and pixels."""

    def __init__(self, seed: int = 0) -> None:
        super().__init__()
        source = torch.Generator().manual_seed(seed)

        def drawn(*shape: int) -> nn.Parameter:
            return nn.Parameter(0.5 * torch.randn(shape, generator=source, dtype=torch.float64))

        self.inner, self.prompt, self.bias = drawn(8, CHANNELS * 16), drawn(8, WIDTH), drawn(8)
        self.outer = drawn(CHANNELS * 16, 8)

    def forward(self, latents: Tensor, code: Tensor, sigma: Tensor) -> Tensor:
        hidden = latents.flatten(1) @ self.inner.T + code @ self.prompt.T + sigma * self.bias
        return (torch.tanh(hidden) @ self.outer.T).reshape(latents.shape)


class FakeBackbone:
    """A `Backbone`; counts the samples that its network was evaluated for."""

    def __init__(self, seed: int = 0) -> None:
        self.module = Network(seed)
        self.device = torch.device("cpu")
        self.forward_samples = 0
        self.backward_samples = 0
        self.largest = 0
        self.encoded: list[tuple[str, ...]] = []
        source = torch.Generator().manual_seed(99)
        self._paint = torch.randn(3, CHANNELS, generator=source, dtype=torch.float64)

    def encode(self, prompts: Sequence[str]) -> Conditioning:
        self.encoded.append(tuple(prompts))
        return Conditioning({"code": torch.stack([code(prompt) for prompt in prompts])})

    def noise(self, count: int, *, height: int, width: int, generator: torch.Generator) -> Tensor:
        shape = (count, CHANNELS, height, width)
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    def sigmas(self, steps: int, *, height: int, width: int) -> Tensor:
        even = torch.linspace(1, 0, steps + 1, dtype=torch.float64)
        return 3 * even / (1 + 2 * even)

    def velocity(self, conditioning: Conditioning) -> VelocityField:
        def field(latents: Tensor, sigma: Tensor, /) -> Tensor:
            if torch.is_grad_enabled():
                self.backward_samples += len(latents)
            else:
                self.forward_samples += len(latents)
            self.largest = max(self.largest, len(latents))
            return self.module(latents, conditioning.tensors["code"], sigma)

        return field

    def reference(self) -> Reference:
        """The network as it is now, without gradient."""
        kept = copy.deepcopy(self.module).requires_grad_(False)

        def fields(conditioning: Conditioning) -> VelocityField:
            def field(latents: Tensor, sigma: Tensor, /) -> Tensor:
                assert not torch.is_grad_enabled()
                self.forward_samples += len(latents)
                self.largest = max(self.largest, len(latents))
                return kept(latents, conditioning.tensors["code"], sigma)

            return field

        return fields

    def decode(self, latents: Tensor) -> Tensor:
        return torch.sigmoid(torch.einsum("kc,bchw->bkhw", self._paint, latents))

    def trainable(self) -> Mapping[str, nn.Parameter]:
        return dict(self.module.named_parameters())

    def save(self, folder: Path) -> None:
        torch.save(self.module.state_dict(), folder / "weights.pt")

    def state(self) -> dict[str, Tensor]:
        """A copy of the parameters."""
        return {name: p.detach().clone() for name, p in self.module.named_parameters()}


def colour_reward(images: Tensor, prompts: Sequence[str]) -> Tensor:
    """How near the mean colour is to the prompt's, smoothly: 1 is equal."""
    targets = torch.stack([code(prompt) for prompt in prompts])
    return torch.exp(-4 * (images.mean((2, 3)) - targets).pow(2).sum(1))


def make_step(**changes: object) -> TrainingStep:
    """A step of Sparse under guidance on six Euler steps, with some parts replaced."""
    parts: dict[str, object] = {
        "backbone": FakeBackbone(),
        "reward": colour_reward,
        "method": Sparse(active=2),
        "shape": Linear(),
        "sampling": TrainingSampling(steps=6, guidance=2.5, height=4, width=4),
        "batching": Batching(samples=3),
    }
    return TrainingStep(**{**parts, **changes})


def make_trainer(step: TrainingStep | None = None, **changes: object) -> Trainer:
    """A trainer of four steps with a clock that stands still, with some parts replaced."""
    parts: dict[str, object] = {
        "step": step or make_step(),
        "prompts": PromptList(PROMPTS),
        "optimizer": AdamW(learning_rate=1e-2),
        "steps": 4,
        "clock": lambda: 0.0,
    }
    return Trainer(**{**parts, **changes})


def gradients(step: TrainingStep) -> dict[str, Tensor]:
    """The accumulated gradients of a step's backbone; zeros where there are none."""
    return {
        name: torch.zeros_like(p) if p.grad is None else p.grad.clone()
        for name, p in step.backbone.trainable().items()
    }


@attrs.define
class Recorder:
    """An observer that remembers; `act` is called with each step number after its row."""

    rows: list = attrs.field(factory=list)
    shown: list = attrs.field(factory=list)
    held_out: tuple = ()
    closed: int = 0
    act: Callable[[int], None] = lambda step: None

    def row(self, metrics: object) -> None:
        self.rows.append(metrics)
        self.act(metrics.step)

    def pictures(self, step: int, images: Tensor, prompts: Sequence[str]) -> None:
        self.shown.append((step, images.clone(), tuple(prompts)))

    def evaluations(self, rows: object) -> None:
        self.held_out = tuple(rows)

    def close(self) -> None:
        self.closed += 1


def saved(folder: Path) -> dict[str, torch.Tensor]:
    """The parameters in a checkpoint of a `FakeBackbone`."""
    return torch.load(folder / "weights.pt", weights_only=True)


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    """Whether two states are equal, bit for bit."""
    return left.keys() == right.keys() and all(torch.equal(left[n], right[n]) for n in left)
