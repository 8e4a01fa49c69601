"""Independent random streams from one seed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import attrs
import torch
from torch import Tensor


def generator(seed: int, name: str) -> torch.Generator:
    """The random generator called `name` of a run with this seed, fresh and on the CPU.

    Seed and name are hashed, so that streams of different names or neighbouring seeds have
    nothing in common, and a draw more in one stream leaves the others as they were.
    """
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    # manual_seed takes a signed 64-bit number.
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


@attrs.frozen(eq=False)
class Streams:
    """The four random streams of a training run."""

    prompts: torch.Generator
    surrogate: torch.Generator
    noise: torch.Generator
    copies: torch.Generator

    @classmethod
    def of(cls, seed: int) -> Streams:
        """The streams of a run with this seed, at their start."""
        # Under these names they have been seeded from the first version on.
        return cls(*(generator(seed, name) for name in ("prompts", "plan", "noise", "copies")))

    def states(self) -> dict[str, Tensor]:
        """Where each of them is, as bytes by name."""
        return {name: stream.get_state() for name, stream in self._named().items()}

    def set_states(self, states: Mapping[str, Tensor]) -> None:
        """Put each of them where `states` says."""
        for name, stream in self._named().items():
            stream.set_state(states[name])

    def _named(self) -> dict[str, torch.Generator]:
        return {field.name: getattr(self, field.name) for field in attrs.fields(type(self))}


@contextmanager
def kept(device: torch.device) -> Iterator[None]:
    """Put torch's own generators, of the CPU and of `device`, back after."""
    # Without `devices` torch would begin to use every GPU that it sees.
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        yield


@contextmanager
def seeded(seed: int, device: torch.device, name: str = "torch") -> Iterator[None]:
    """Seed torch's own generators, as dropout and the like draw from them; put them back after."""
    with kept(device):
        torch.manual_seed(generator(seed, name).initial_seed())
        yield


def generator_states(device: torch.device) -> dict[str, Tensor]:
    """The states of torch's own generators, which dropout and the like draw from."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def set_generator_states(states: Mapping[str, Tensor], device: torch.device) -> None:
    """Put torch's own generators where `generator_states` found them."""
    torch.set_rng_state(states["cpu"])
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)
