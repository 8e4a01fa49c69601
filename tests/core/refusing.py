"""What every refusal must say."""

from __future__ import annotations

from collections.abc import Callable

import pytest


def refused(argument: str, value: object, legal: str, build: Callable[[], object]) -> None:
    """The message holds the argument in backticks, the value as written, and the range."""
    with pytest.raises(ValueError) as caught:
        build()
    message = str(caught.value)
    assert f"`{argument}`" in message
    assert repr(value) in message
    assert legal in message
