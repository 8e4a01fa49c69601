"""The device that a configuration names."""

from __future__ import annotations

from typing import Any

import attrs
import torch


def chosen_device(name: str) -> torch.device:
    """The device that a name stands for.

    Args:
        name: `auto`, or a device of torch.

    Returns:
        The device; for `auto` CUDA where there is any, else the CPU.

    Example:
        >>> chosen_device("cpu")
        device(type='cpu')
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(name)


def check_device(_: Any, attribute: attrs.Attribute[Any], value: str) -> None:
    """A validator: `auto`, or a device of torch."""
    if value == "auto":
        return
    try:
        torch.device(value)
    except RuntimeError as error:
        raise ValueError(
            f"`{attribute.name}` must be auto, cpu, cuda or another device of torch, got {value!r}"
        ) from error
