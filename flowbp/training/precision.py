"""A warning about weights that are too coarse to be trained."""

from __future__ import annotations

import warnings
from collections.abc import Mapping

import torch
from torch import nn

_COARSE = (torch.bfloat16, torch.float16)


def warn_of_coarse_weights(parameters: Mapping[str, nn.Parameter], learning_rate: float) -> None:
    """Warn if trainable parameters are of a dtype that rounds small updates away.

    AdamW changes a weight by about the learning rate in each step. In bfloat16 a weight of 0.02
    stays what it is, however many steps of 1e-5 there are.

    Args:
        parameters: that are trained, by name.
        learning_rate: the full rate.

    Example:
        >>> warn_of_coarse_weights({"weight": nn.Parameter(torch.zeros(2))}, 1e-5)
    """
    coarse = {name: p.dtype for name, p in parameters.items() if p.dtype in _COARSE}
    if not coarse:
        return
    name, dtype = next(iter(coarse.items()))
    kind = str(dtype).removeprefix("torch.")
    warnings.warn(
        f"{len(coarse)} of {len(parameters)} trainable parameters are {kind} (the first is "
        f"`{name}`), where a change of a weight by less than about {torch.finfo(dtype).eps / 2:.1g}"
        f" of its size is rounded away; at the learning rate {learning_rate:g} much of the model "
        "may not train at all. Keep the weights in float32 and compute in bfloat16: "
        "`policy: {weights: float32, compute: bfloat16}` of the backbone",
        UserWarning,
        stacklevel=2,
    )
