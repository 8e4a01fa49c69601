"""Memory between the parts of an evaluation."""

from __future__ import annotations

import gc

import torch


def release() -> None:
    """Give back what nobody holds any more, the device's memory too.

    Example:
        >>> release()
    """
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
