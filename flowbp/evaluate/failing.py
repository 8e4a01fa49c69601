"""What stops an evaluation for a reason outside this library."""

from __future__ import annotations

from flowbp.components import ComponentError
from flowbp.short_memory import is_short_memory

_SMALLER = "lower evaluation.batch, or the metric's own `batch` where it has one"


class EvaluateError(RuntimeError):
    """An evaluation cannot go on; the message says at what, and what to do."""


def reason(error: BaseException) -> str:
    """An error in one line, with its notes, and its cure where memory is short.

    Args:
        error: any.

    Returns:
        Its type and text, or what it says of the component that failed.

    Example:
        >>> reason(ValueError("no such thing"))
        'ValueError: no such thing'
    """
    notes = [*getattr(error, "__notes__", ()), *([_SMALLER] if is_short_memory(error) else ())]
    if isinstance(error, ComponentError):
        # What it says of prompts and stage is said beside.
        return "; ".join([f"{error.component} {error.problem}", *notes])
    return f"{type(error).__name__}: {'; '.join([str(error), *notes])}"
