"""Giving a network the tensors of a file, without drawing weights that are then thrown away."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from flowbp.rewards.weight_files import check_layout


def assign(module: nn.Module, weights: Mapping[str, Tensor], *, path: Path, what: str) -> None:
    """Put the tensors of a file in place of a module's own, every key of both accounted for.

    Args:
        module: its parameters are replaced; their dtypes stay.
        weights: tensors in the module's keys.
        path: of the file they came from, for the message.
        what: the file should be, for the message.

    Raises:
        ValueError: with the first key that is missing, of another shape, or too many.

    Example:
        >>> linear = nn.Linear(1, 2)
        >>> assign(linear, {"weight": torch.ones(2, 1)}, path=Path("head.pt"), what="a head")
        Traceback (most recent call last):
            ...
        ValueError: head.pt does not hold a head: it lacks bias, the first of 1 missing keys; it \
holds weight; name the file of this very model
    """
    own = module.state_dict()
    layout = {key: tuple(tensor.shape) for key, tensor in own.items()}
    check_layout(weights, layout, path=path, what=what)
    module.load_state_dict(
        {key: tensor.to(own[key].dtype) for key, tensor in weights.items()}, assign=True
    )


class Head(nn.Sequential):
    """Layers that stay in float32 at least, whatever the network around them is cast to.

    Example:
        >>> network = nn.ModuleDict(dict(body=nn.Linear(1, 1), head=Head(nn.Linear(1, 1))))
        >>> [weight.dtype for weight in network.to(torch.bfloat16).parameters()][1:3]
        [torch.bfloat16, torch.float32]
    """

    def _apply(self, fn: Any, recurse: bool = True) -> Any:
        def move(tensor: Tensor) -> Tensor:
            asked = fn(tensor.new_empty(0))
            dtype = torch.promote_types(asked.dtype, torch.float32)
            return tensor.to(device=asked.device, dtype=dtype)

        parent: Any = super()
        return parent._apply(move, recurse)


class _KeepParameters(TorchFunctionMode):
    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        # What writes in place ends in one underscore; torch.nn.init passes its tensor by name.
        target = args[0] if args else kwargs.get("tensor")
        writes = re.fullmatch(r"[a-z]\w*[^_]_", getattr(func, "__name__", ""))
        if writes and isinstance(target, nn.Parameter) and func is not Tensor.requires_grad_:
            return target
        return func(*args, **kwargs)


@contextmanager
def unfilled(dtype: torch.dtype) -> Iterator[None]:
    """Modules built inside have parameters of `dtype` whose values are whatever memory held.

    Drawing random values for billions of parameters takes minutes, and all are replaced.

    Args:
        dtype: Of the parameters.

    Returns:
        A context manager.

    Example:
        >>> with unfilled(torch.bfloat16):
        ...     linear = nn.Linear(2, 2)
        >>> linear.weight.dtype
        torch.bfloat16
    """
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with _KeepParameters():
            yield
    finally:
        torch.set_default_dtype(before)
