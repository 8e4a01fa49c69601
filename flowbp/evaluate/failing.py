"""What stops an evaluation for a reason outside this library."""

from __future__ import annotations


class EvaluateError(RuntimeError):
    """An evaluation cannot go on; the message says at what, and what to do."""


def reason(error: BaseException) -> str:
    """An error in one line, with its notes.

    Args:
        error: any.

    Returns:
        Its type and text.

    Example:
        >>> reason(ValueError("no such thing"))
        'ValueError: no such thing'
    """
    text = "; ".join([str(error), *getattr(error, "__notes__", ())])
    return f"{type(error).__name__}: {text}"
