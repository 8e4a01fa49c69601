"""Gradient checkpointing that a run may switch, where a backbone can."""

from __future__ import annotations

from typing import Any, Literal, Protocol, runtime_checkable

Checkpointing = bool | Literal["auto"]
"""Recompute activations in the backward pass: always, never, or where a run finds it has to."""


@runtime_checkable
class WithCheckpointing(Protocol):
    """A backbone whose gradient checkpointing a run may switch between two steps.

    Without it a backbone works as well, and its checkpointing stays as its owner has set it.

    Example:
        >>> from flowbp.shapes.embedded import embedded_backbone
        >>> isinstance(embedded_backbone(), WithCheckpointing)
        True
    """

    @property
    def gradient_checkpointing(self) -> Checkpointing:
        """What its owner asked for; under `auto` it is off until it is switched."""
        ...

    def checkpoint_gradients(self, on: bool, /) -> None:
        """Switch it, whatever its owner asked for."""
        ...


def checkpointing_of(backbone: Any) -> WithCheckpointing | None:
    """Ask a backbone, or what wraps one, whether its gradient checkpointing can be switched.

    Args:
        backbone: Any.

    Returns:
        The backbone, or None if it cannot.

    Example:
        >>> print(checkpointing_of(object()))
        None
    """
    # Not isinstance: from Python 3.12 on it does not see what a wrapper's __getattr__ forwards.
    names = ("gradient_checkpointing", "checkpoint_gradients")
    return backbone if all(hasattr(backbone, name) for name in names) else None
