"""Which picture sizes a latent model can draw."""

from __future__ import annotations


def check_size(*, height: int, width: int, multiple: int, largest: int | None = None) -> None:
    """Refuse a picture size that does not divide into latents and patches.

    Args:
        height: Pixels.
        width: Pixels.
        multiple: Pixels per patch along one side.
        largest: The longest side the positional embedding covers, in pixels; None has no bound.

    Raises:
        ValueError: With the nearest legal sizes.

    Example:
        >>> check_size(height=64, width=72, multiple=16)
        Traceback (most recent call last):
            ...
        ValueError: `width` must be a positive multiple of 16, got 72; the nearest are 64 and 80
    """
    for name, size in (("height", height), ("width", width)):
        if size < multiple:
            raise ValueError(
                f"`{name}` must be a positive multiple of {multiple}, got {size}; "
                f"the nearest is {multiple}"
            )
        if size % multiple:
            below = size - size % multiple
            raise ValueError(
                f"`{name}` must be a positive multiple of {multiple}, got {size}; "
                f"the nearest are {below} and {below + multiple}"
            )
        if largest is not None and size > largest:
            raise ValueError(
                f"`{name}` must be at most {largest}, the reach of the positional embedding, "
                f"got {size}"
            )
