"""Nested values as JSON and tensors, so that nothing has to be pickled."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

_SCALARS = (bool, int, float, str, type(None))


def pack(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """Turn a nested value into what JSON can hold; its tensors go into a flat mapping.

    Args:
        value: of numbers, texts, None, tensors, and lists, tuples and mappings of such.
        name: of the value; the tensors' names begin with it.
        tensors: receives the tensors, detached and contiguous.

    Returns:
        The value as JSON.

    Raises:
        TypeError: something in it is of another type.

    Example:
        >>> tensors = {}
        >>> packed = pack({0: (torch.zeros(2), 0.5)}, "state", tensors)
        >>> list(tensors), unpack(packed, tensors)
        (['state.0.0'], {0: (tensor([0., 0.]), 0.5)})
    """
    if isinstance(value, Tensor):
        tensors[name] = value.detach().contiguous()
        return {"tensor": name}
    if type(value) in _SCALARS:
        return value
    if isinstance(value, Mapping):
        pairs = [[key, pack(item, f"{name}.{key}", tensors)] for key, item in value.items()]
        return {"mapping": pairs}
    if type(value) in (list, tuple):
        items = [pack(item, f"{name}.{place}", tensors) for place, item in enumerate(value)]
        return {"tuple": items} if isinstance(value, tuple) else items
    raise TypeError(
        f"`{name}` must be made of numbers, texts, tensors, lists, tuples and mappings to be saved "
        f"without pickling, got {type(value).__name__}; use an optimizer whose state is, or set "
        "no folder for checkpoints"
    )


def unpack(packed: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The inverse of `pack`.

    Args:
        packed: what `pack` returned, perhaps through JSON.
        tensors: that it collected.

    Returns:
        The value.

    Raises:
        KeyError: a tensor is missing.

    Example:
        >>> unpack({"tuple": [1, {"mapping": [["a", None]]}]}, {})
        (1, {'a': None})
    """
    if isinstance(packed, list):
        return [unpack(item, tensors) for item in packed]
    if not isinstance(packed, Mapping):
        return packed
    ((kind, content),) = packed.items()
    if kind == "tensor":
        return tensors[content]
    if kind == "tuple":
        return tuple(unpack(item, tensors) for item in content)
    return {key: unpack(item, tensors) for key, item in content}


def generator_states(device: torch.device) -> dict[str, Tensor]:
    """The states of torch's own generators, which dropout and the like draw from.

    Args:
        device: of the run; the CPU's state is always among them.

    Returns:
        Bytes, by the type of the device.

    Example:
        >>> list(generator_states(torch.device("cpu")))
        ['cpu']
    """
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def set_generator_states(states: Mapping[str, Tensor], device: torch.device) -> None:
    """Put torch's own generators where `generator_states` found them.

    Args:
        states: what it returned; one of a type of device that the run has no more is left out.
        device: of the run.

    Example:
        >>> states = generator_states(torch.device("cpu"))
        >>> first = torch.rand(1)
        >>> set_generator_states(states, torch.device("cpu"))
        >>> bool(first == torch.rand(1))
        True
    """
    torch.set_rng_state(states["cpu"])
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)
