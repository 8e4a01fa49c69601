"""Independent random streams from one seed."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import attrs
import torch
from torch import Tensor


def generator(seed: int, name: str) -> torch.Generator:
    """The random generator called `name` of a run with this seed.

    Seed and name are hashed, so that streams of different names or neighbouring seeds have
    nothing in common, and a draw more in one stream leaves the others as they were.

    Args:
        seed: of the run.
        name: what the stream is for.

    Returns:
        A fresh generator on the CPU, a pure function of both arguments.

    Example:
        >>> first, again = generator(0, "noise"), generator(0, "noise")
        >>> torch.equal(torch.randn(3, generator=first), torch.randn(3, generator=again))
        True
    """
    digest = hashlib.sha256(f"{seed}/{name}".encode()).digest()
    # manual_seed takes a signed 64-bit number.
    return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)


@attrs.frozen(eq=False)
class Streams:
    """The four random streams of a training run.

    Args:
        prompts: order of the prompts.
        plan: what the method draws.
        noise: starting latents.
        copies: renoised copies.

    Example:
        >>> Streams.of(0).noise.initial_seed() == Streams.of(1).noise.initial_seed()
        False
    """

    prompts: torch.Generator
    plan: torch.Generator
    noise: torch.Generator
    copies: torch.Generator

    @classmethod
    def of(cls, seed: int) -> Streams:
        """The streams of a run with this seed, at their start."""
        return cls(*(generator(seed, field.name) for field in attrs.fields(cls)))

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
def seeded(seed: int, device: torch.device) -> Iterator[None]:
    """Seed torch's own generators, which dropout and the like draw from; put them back afterwards.

    A process starts with them anywhere, and a run would depend on that.

    Args:
        seed: of the run.
        device: of the run; its generator is seeded besides the CPU's.

    Example:
        >>> with seeded(0, torch.device("cpu")):
        ...     first = torch.rand(1)
        >>> with seeded(0, torch.device("cpu")):
        ...     print(bool(first == torch.rand(1)))
        True
    """
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        torch.manual_seed(generator(seed, "torch").initial_seed())
        yield


def generator_states(device: torch.device) -> dict[str, Tensor]:
    """The states of torch's own generators, which dropout and the like draw from.

    Args:
        device: of the run; the CPU's state is always among them.

    Returns:
        Bytes, by the type of the device.

    Example:
        >>> list(generator_states(torch.device("cpu")))
        ['cpu']
    """
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def set_generator_states(states: Mapping[str, Tensor], device: torch.device) -> None:
    """Put torch's own generators where `generator_states` found them.

    Args:
        states: what it returned; one of a type of device that the run has no more is left out.
        device: of the run.

    Example:
        >>> states = generator_states(torch.device("cpu"))
        >>> first = torch.rand(1)
        >>> set_generator_states(states, torch.device("cpu"))
        >>> bool(first == torch.rand(1))
        True
    """
    torch.set_rng_state(states["cpu"])
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)
