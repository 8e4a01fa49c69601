"""Nested values as JSON and tensors, so that nothing has to be pickled."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

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
        >>> import torch
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
        ValueError: a tensor is missing, or `pack` returns no such thing.

    Example:
        >>> unpack({"tuple": [1, {"mapping": [["a", None]]}]}, {})
        (1, {'a': None})
    """
    if isinstance(packed, list):
        return [unpack(item, tensors) for item in packed]
    if not isinstance(packed, Mapping):
        return packed
    if len(packed) != 1:
        raise ValueError(f"`packed` must name one kind of value, got {', '.join(packed) or 'none'}")
    ((kind, content),) = packed.items()
    if kind == "tensor" and isinstance(content, str):
        try:
            return tensors[content]
        except KeyError as error:
            raise ValueError(f"`packed` names the tensor {content!r}, which is missing") from error
    if kind == "tuple" and isinstance(content, list):
        return tuple(unpack(item, tensors) for item in content)
    if kind == "mapping" and isinstance(content, list) and all(map(_is_pair, content)):
        return {key: unpack(item, tensors) for key, item in content}
    raise ValueError(f"`packed` has a value of the kind {kind!r}, which is none of ours")


def _is_pair(item: Any) -> bool:
    return isinstance(item, list) and len(item) == 2 and isinstance(item[0], str | int)
