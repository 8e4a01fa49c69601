"""A frozen network that can leave memory, or at least its device, and come back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from flowbp.adapters.policy import CPU, FLOAT32, DtypePolicy


class Releasable:
    """Holds a frozen network; released, it takes no memory of its device.

    One that can be loaded again leaves memory altogether. Any other goes to the CPU, for saving
    needs it. The network is frozen and set to evaluation mode, now and whenever it comes back.

    Args:
        module: The network.

    Example:
        >>> held = Releasable(nn.Linear(1, 1))
        >>> held.reload_with(lambda: nn.Linear(1, 1))
        >>> held.release()
        >>> held.ready().weight.requires_grad
        False
    """

    def __init__(self, module: Any) -> None:
        self._module: Any = _frozen(module)
        self._load: Callable[[], Any] | None = None
        self.origin = ""
        self._policy: DtypePolicy | None = None
        self._device = CPU
        self._away = False

    def place(self, policy: DtypePolicy, device: torch.device) -> None:
        """Move it to a device and cast it, now and whenever it comes back."""
        self._policy, self._device = policy, device
        policy.place(self._module, device)

    def reload_with(self, load: Callable[[], Any], origin: str = "") -> None:
        """Say how the network is loaded again, on the CPU with the weights it has now.

        Args:
            load: Loads it.
            origin: Where from, for messages: a folder or a hub id.
        """
        self._load, self.origin = load, origin

    @property
    def released(self) -> bool:
        """Whether it is away from its device."""
        return self._away

    def ready(self) -> Any:
        """The network where it was placed; one that was released comes back to stay."""
        if self._away:
            self._module = self.for_saving()
            (self._policy or FLOAT32).place(self._module, self._device)
            self._away = False
        return self._module

    def for_saving(self) -> Any:
        """The network wherever it is; one that has left memory is loaded for the caller alone."""
        if self._module is not None or self._load is None:
            return self._module
        return _frozen(self._load())

    def release(self) -> None:
        """Free the memory of its device."""
        self._away = True
        if self._load is not None:
            self._module = None
        elif self._device.type != "cpu":
            nn.Module.to(self._module, CPU)


def _frozen(module: Any) -> Any:
    return module.requires_grad_(False).eval()
