"""What stops an evaluation for a reason outside this library."""

from __future__ import annotations

import torch

MEMORY = (torch.OutOfMemoryError, MemoryError)
"""Errors of a device or machine whose memory is short."""

_SMALLER = "lower evaluation.batch, or the metric's own `batch` where it has one"


class EvaluateError(RuntimeError):
    """An evaluation cannot go on; the message says at what, and what to do."""


def reason(error: BaseException) -> str:
    """An error in one line, with its notes, and its cure where memory is short.

    Args:
        error: any.

    Returns:
        Its type and text.

    Example:
        >>> reason(ValueError("no such thing"))
        'ValueError: no such thing'
    """
    notes = [*getattr(error, "__notes__", ()), *([_SMALLER] if isinstance(error, MEMORY) else ())]
    text = "; ".join([str(error), *notes])
    return f"{type(error).__name__}: {text}"
