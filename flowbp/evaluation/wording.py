"""Numbers in sentences."""

from __future__ import annotations


def counted(number: int, unit: str) -> str:
    """A number of things in words that agree with it.

    Args:
        number: of them.
        unit: what they are, in the singular.

    Returns:
        The number and the unit.

    Example:
        >>> counted(1, "prompt"), counted(2, "prompt")
        ('1 prompt', '2 prompts')
    """
    return f"{number} {unit}" if number == 1 else f"{number} {unit}s"
