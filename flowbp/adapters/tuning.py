"""What of a model is trained."""

from __future__ import annotations

from typing import Protocol

import attrs
import torch

from flowbp.adapters.backbone import Backbone


class Tuning(Protocol):
    """Chooses what of a backbone is trained."""

    def __call__(self, backbone: Backbone, /, *, generator: torch.Generator) -> Backbone:
        """The backbone to train, whose `trainable` names what changes.

        Args:
            backbone: as it was loaded; its module may be changed in place.
            generator: for whatever is drawn; on the CPU, so that devices agree.

        Returns:
            A backbone, the same or another.
        """
        ...


@attrs.frozen
class Full:
    """Train what the backbone itself calls trainable, which for the library's families is all.

    Example:
        >>> Full()("any backbone", generator=torch.Generator())
        'any backbone'
    """

    def __call__(self, backbone: Backbone, /, *, generator: torch.Generator) -> Backbone:
        """The backbone as it is."""
        return backbone
