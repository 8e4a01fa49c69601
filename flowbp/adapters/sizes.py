"""Which picture sizes a latent model can draw."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import attrs

from flowbp.core._validators import integer


@attrs.frozen
class PictureSizes:
    """The sides, in pixels, of the pictures that a model can draw.

    Args:
        multiple: Of which both sides are: pixels per patch along one side.
        largest: The longest side the positional embedding covers; None has no bound.

    Raises:
        ValueError: A number is less than 1.

    Example:
        >>> PictureSizes(16).fault(72)
        'must be a positive multiple of 16, got 72; the nearest are 64 and 80'
    """

    multiple: int = attrs.field(validator=integer(1))
    largest: int | None = attrs.field(default=None, validator=attrs.validators.optional(integer(1)))

    def fault(self, side: int) -> str | None:
        """What is wrong with a side, and the nearest legal ones.

        Args:
            side: Pixels.

        Returns:
            In words that follow the name of the side; None if nothing is.

        Example:
            >>> sizes = PictureSizes(16, largest=1536)
            >>> sizes.fault(1600)
            'must be at most 1536, the reach of the positional embedding, got 1600'
        """
        must = f"must be a positive multiple of {self.multiple}, got {side}"
        if side < self.multiple:
            return f"{must}; the nearest is {self.multiple}"
        if side % self.multiple:
            below = side - side % self.multiple
            return f"{must}; the nearest are {below} and {below + self.multiple}"
        if self.largest is not None and side > self.largest:
            return (
                f"must be at most {self.largest}, the reach of the positional embedding, got {side}"
            )
        return None

    def check(self, *, height: int, width: int) -> None:
        """Refuse a picture that does not divide into latents and patches.

        Args:
            height: Pixels.
            width: Pixels.

        Raises:
            ValueError: With the nearest legal sizes.

        Example:
            >>> PictureSizes(16).check(height=64, width=72)
            Traceback (most recent call last):
                ...
            ValueError: `width` must be a positive multiple of 16, got 72; the nearest are 64 and 80
        """
        for name, side in (("height", height), ("width", width)):
            fault = self.fault(side)
            if fault is not None:
                raise ValueError(f"`{name}` {fault}")


def pixels_per_latent(vae: Mapping[str, Any]) -> int:
    """Along one side.

    Args:
        vae: The configuration of a diffusers AutoencoderKL.

    Returns:
        Each block but the last halves the picture.

    Example:
        >>> pixels_per_latent({"block_out_channels": (128, 256, 512, 512)})
        8
    """
    return int(2 ** (len(vae["block_out_channels"]) - 1))
