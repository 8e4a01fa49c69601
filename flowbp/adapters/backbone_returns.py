"""What a backbone must return, so that one of others is refused where it is wrong, and by name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from flowbp.adapters.backbone import Backbone, Conditioning
from flowbp.components import ComponentError, shown, wrong
from flowbp.core import VelocityField


def checked_batch(backbone: Backbone, method: str, found: Any, count: int) -> Tensor:
    """Latents: a float tensor of `count` rows."""
    if not _is_float(found) or found.ndim < 2 or len(found) != count:
        raise _wrong(backbone, method, f"a float tensor of {count} rows", found)
    return found


def checked_sigmas(backbone: Backbone, found: Any, steps: int) -> Tensor:
    """A grid: a float tensor of one value more than steps."""
    if not _is_float(found) or found.shape != (steps + 1,):
        raise _wrong(backbone, "sigmas", f"a float tensor of shape ({steps + 1},)", found)
    return found


def checked_field(backbone: Backbone, found: Any) -> VelocityField:
    """A velocity field, each value of which has the shape of the latents."""
    if not callable(found):
        raise _wrong(backbone, "velocity", "what is called with latents and sigma", found)

    def velocity(latents: Tensor, sigma: Tensor, /) -> Tensor:
        value = found(latents, sigma)
        if not _is_float(value) or value.shape != latents.shape:
            must = f"a field whose values have the latents' shape {tuple(latents.shape)}"
            raise _wrong(backbone, "velocity", must, value)
        return value

    return velocity


def checked_pictures(backbone: Backbone, found: Any, count: int) -> Tensor:
    """Pictures: a float tensor (B, 3, H, W)."""
    if not _is_float(found) or found.ndim != 4 or found.shape[:2] != (count, 3):
        raise _wrong(backbone, "decode", f"a float tensor ({count}, 3, H, W)", found)
    return found


def checked_conditioning(backbone: Backbone, found: Any, count: int) -> Conditioning:
    """A conditioning of as many prompts."""
    if not isinstance(found, Conditioning) or len(found) != count:
        must = f"a flowbp.adapters.Conditioning of {count} prompts"
        raise _wrong(backbone, "encode", must, found)
    return found


def checked_parameters(backbone: Backbone, found: Any) -> Mapping[str, nn.Parameter]:
    """Parameters by name."""
    if isinstance(found, Mapping) and all(isinstance(each, Tensor) for each in found.values()):
        return found
    raise _wrong(backbone, "trainable", "a mapping of names to parameters", found)


def _is_float(value: Any) -> TypeGuard[Tensor]:
    return isinstance(value, Tensor) and torch.is_floating_point(value)


def _wrong(backbone: Backbone, method: str, must: str, found: Any) -> ComponentError:
    problem = f"must return from `{method}` {must}, got {shown(found)}"
    return wrong("backbone", backbone, problem)
