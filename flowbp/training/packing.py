"""Nested values of tensors, numbers and texts as JSON and a flat mapping of tensors, unpickled."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import attrs
import torch
from torch import Tensor
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from flowbp.adapters.sharding import is_sharded

_PLAIN = (bool, int, float, str, type(None))


def is_composite(tensor: Tensor) -> bool:
    """Whether a tensor is made of several others, as quantised ones are."""
    return is_traceable_wrapper_subclass(tensor) and not is_sharded(tensor)


@attrs.frozen
class UnknownTensor:
    """In place of a composite tensor whose class is not imported here."""

    kind: str


def pack(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """Turn a nested value into what JSON can hold; its tensors go into a flat mapping."""
    if isinstance(value, Tensor):
        return _packed_tensor(value, name, tensors)
    if type(value) in _PLAIN:
        return value
    if isinstance(value, torch.dtype):
        return {"dtype": str(value).removeprefix("torch.")}
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


def _packed_tensor(value: Tensor, name: str, tensors: dict[str, Tensor]) -> Any:
    if not is_traceable_wrapper_subclass(value):
        tensors[name] = value.detach().contiguous()
        return {"tensor": name}
    if is_sharded(value):
        tensors[name] = value.detach()
        return {"tensor": name}
    names, context = value.__tensor_flatten__()
    facts = {
        "kind": _kind(type(value)),
        "parts": {each: getattr(value, each) for each in names},
        "context": context,
        "shape": tuple(value.shape),
        "stride": value.stride(),
    }
    return {"composite": pack(facts, name, tensors)}


def unpack(packed: Any, tensors: Mapping[str, Tensor]) -> Any:
    """The inverse of `pack`."""
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
    if kind == "dtype" and isinstance(getattr(torch, str(content), None), torch.dtype):
        return getattr(torch, content)
    if kind == "composite":
        return _composite(unpack(content, tensors))
    raise ValueError(f"`packed` has a value of the unknown kind {kind!r}")


def _composite(facts: Any) -> Any:
    if not isinstance(facts, dict) or facts.keys() != {"kind", "parts", "context", *_OUTER}:
        raise ValueError("`packed` has a composite tensor that lacks what it is made of")
    # Only a class that the run's own optimizer has brought: a file may not choose what is imported.
    made: Any = next((c for c in _subclasses(Tensor) if _kind(c) == facts["kind"]), None)
    if made is None:
        return UnknownTensor(facts["kind"])
    # Copies, as tensors of a file may be views of it.
    try:
        parts = {name: part.clone() for name, part in facts["parts"].items()}
        return made.__tensor_unflatten__(parts, facts["context"], *(facts[name] for name in _OUTER))
    except (AttributeError, KeyError, TypeError, AssertionError) as error:
        raise ValueError(f"`packed` has a {facts['kind']} of other parts ({error})") from error


_OUTER = ("shape", "stride")


def _kind(cls: type) -> str:
    return f"{cls.__module__}:{cls.__qualname__}"


def _subclasses(cls: type) -> Iterator[type]:
    below: list[type] = cls.__subclasses__()
    for each in below:
        yield each
        yield from _subclasses(each)


def _is_pair(item: Any) -> bool:
    return isinstance(item, list) and len(item) == 2 and isinstance(item[0], str | int)
