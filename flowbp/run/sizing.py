"""Whether a model can draw pictures of the size that is asked for, found before it is loaded."""

from __future__ import annotations

from typing import Any, Protocol

from flowbp.configuration import Component
from flowbp.run.families import named_model
from flowbp.settings.intervals import Found


class PictureSize(Protocol):
    """Has the sides of a picture, in pixels."""

    @property
    def height(self) -> int:
        """From top to bottom."""
        ...

    @property
    def width(self) -> int:
        """From left to right."""
        ...


def undrawable(backbone: Component[Any], size: PictureSize) -> Found:
    """What is wrong with the size of pictures in the section `sampling`.

    Args:
        backbone: what would load the model.
        size: what is asked for.

    Yields:
        The key of each side that is wrong, and how, or of `backbone` if there is no folder and the
        hub does not give the model's configuration; nothing of a model that only says when it is
        loaded.

    Example:
        >>> from flowbp.evaluation import Sampling
        >>> from flowbp.shapes.embedded import embedded_backbone
        >>> asked = Sampling(steps=4, height=60, width=64)
        >>> print(*undrawable(Component("shapes", embedded_backbone), asked))
        (('sampling', 'height'), 'must be a positive multiple of 16, got 60; the nearest are 48 \
and 64')
    """
    named = named_model(backbone)
    if named is None:
        return
    try:
        sizes = named.picture_sizes
    # A configuration of wrong types raises anything.
    except Exception as error:
        # A hub out of reach is asked for half a minute, so once is enough. What a folder lacks is
        # told by what loads it, with all that is missing.
        if isinstance(error, OSError) and not named.is_folder:
            yield ("backbone",), str(error)
        return
    for side, wrong in (("height", sizes.fault(size.height)), ("width", sizes.fault(size.width))):
        if wrong:
            yield ("sampling", side), wrong
