"""What a model has to say about the scale of guidance."""

from __future__ import annotations

from typing import Protocol, runtime_checkable


@runtime_checkable
class WithGuidanceAdvice(Protocol):
    """A backbone that knows of scales of guidance it is not made for; a run warns of them.

    Without it a backbone works as well.

    Example:
        >>> from flowbp.adapters import Flux2Backbone
        >>> issubclass(Flux2Backbone, WithGuidanceAdvice)
        True
    """

    def guidance_problem(self, guidance: float) -> str | None:
        """What is wrong with sampling at this scale, and the cure; None if nothing is."""
        ...
