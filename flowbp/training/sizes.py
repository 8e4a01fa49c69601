"""In what portions a step works, as numbers."""

from __future__ import annotations

import attrs

from flowbp.core._validators import integer


@attrs.frozen(kw_only=True)
class Portions:
    """How many samples are worked on at a time in each stage of a step.

    Args:
        samples: in the forward pass, without gradient.
        pull: in the backward pass of the network.
        decode: in the decoder and the reward.
        checkpointing: whether the network's activations are computed again in the backward pass;
            None if its backbone does not let that be switched.

    Raises:
        ValueError: a number is below 1.

    Example:
        >>> print(Portions(samples=8, pull=4, decode=2, checkpointing=False))
        pull 4, decode 2, gradient checkpointing off
    """

    samples: int = attrs.field(validator=integer(1))
    pull: int = attrs.field(validator=integer(1))
    decode: int = attrs.field(validator=integer(1))
    checkpointing: bool | None = None

    def __str__(self) -> str:
        sizes = f"pull {self.pull}, decode {self.decode}"
        if self.checkpointing is None:
            return sizes
        return f"{sizes}, gradient checkpointing {_switched(self.checkpointing)}"

    def changed_from(self, other: Portions) -> str:
        """What is different here, `pull 8 -> 4` say.

        Args:
            other: the former portions.

        Returns:
            The changes, separated by commas.
        """
        names = ("samples", "pull", "decode")
        pairs = [(name, getattr(other, name), getattr(self, name)) for name in names]
        told = [f"{name} {old} -> {new}" for name, old, new in pairs if old != new]
        if self.checkpointing is not None and self.checkpointing != other.checkpointing:
            told.append(f"gradient checkpointing {_switched(self.checkpointing)}")
        return ", ".join(told)


def _switched(on: bool) -> str:
    return "on" if on else "off"
