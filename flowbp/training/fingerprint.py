"""What tells one frozen model from another, without keeping it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable

import torch
from torch import Tensor, nn

# Integers of as many bytes. Their sums wrap around, and so do not depend on the order of addition.
_INTEGERS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
_PART = 2**24


def frozen_fingerprint(module: nn.Module, trained: Iterable[Tensor]) -> str:
    """A digest of all parameters and saved buffers of a network that are not trained.

    Of each tensor go in: name, shape, dtype, and for every 2^24 elements the sum of their bits
    read as integers, modulo 2^64. It costs one reading of the weights, is exact, and is the same
    on every device. Buffers that the network computes and does not save do not count.

    Args:
        module: any network.
        trained: its parameters that are trained.

    Returns:
        Hexadecimal.

    Example:
        >>> linear = nn.Linear(2, 2)
        >>> before = frozen_fingerprint(linear, [linear.bias])
        >>> with torch.no_grad():
        ...     _ = linear.bias.add_(1)
        >>> before == frozen_fingerprint(linear, [linear.bias])
        True
        >>> before == frozen_fingerprint(linear, [])
        False
    """
    changing = {id(parameter) for parameter in trained}
    # With keep_vars the tensors themselves, not copies of the handles.
    state = module.state_dict(keep_vars=True)
    frozen = {name: each for name, each in sorted(state.items()) if id(each) not in changing}
    digest = hashlib.sha256()
    for name, tensor in frozen.items():
        fact = [name, list(tensor.shape), str(tensor.dtype), _sums(tensor.detach())]
        digest.update(json.dumps(fact).encode())
    return digest.hexdigest()


def _sums(tensor: Tensor) -> list[int]:
    bits = tensor.view(_INTEGERS[tensor.element_size()]).flatten()
    # In parts, as the sum makes a copy in 64 bits, and so that where a bit stands counts a little.
    sums = torch.stack([part.sum(dtype=torch.int64) for part in torch.split(bits, _PART)])
    # One transfer for each tensor, not for each part.
    found: list[int] = sums.tolist()
    return found
