"""What the library asks of a model family, and the conditioning value that it hands around."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol, TypeGuard, runtime_checkable

import attrs
import torch
from torch import Tensor, nn

from flowbp.component_errors import ComponentError, shown, wrong
from flowbp.core import Rescale, VelocityField, batched_guided_velocity, guided_velocity

LENGTHS = "lengths"
"""The tensor of a conditioning that stays on the CPU."""


def _copied(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    return dict(tensors)


def _check_tensors(
    instance: Conditioning, attribute: attrs.Attribute[dict[str, Tensor]], value: dict[str, Tensor]
) -> None:
    if not value:
        raise ValueError("`tensors` must hold at least one tensor, got an empty mapping")
    sizes = {name: tensor.shape[0] if tensor.ndim else None for name, tensor in value.items()}
    if None in sizes.values() or len(set(sizes.values())) != 1:
        raise ValueError(
            f"`tensors` must agree in their first dimension (samples), got {sizes}; "
            "encode all of them from the same prompts"
        )


@attrs.frozen(eq=False)
class Conditioning:
    """What a velocity is conditioned on: named tensors with one row per sample.

    Args:
        tensors: Name to tensor (B, …), all with the same B. The names belong to the model family,
            but for ``lengths`` (B,): integers such as the number of each prompt's tokens, by which
            a network cuts its input. They stay on the CPU, so that no call waits for a device.

    Raises:
        ValueError: No tensor, or different numbers of samples.

    Example:
        >>> conditioning = Conditioning({"tokens": torch.zeros(3, 77, 8)})
        >>> len(conditioning), len(conditioning[1:]), len(conditioning.repeat(2))
        (3, 2, 6)
    """

    tensors: Mapping[str, Tensor] = attrs.field(converter=_copied, validator=_check_tensors)

    def __len__(self) -> int:
        return next(iter(self.tensors.values())).shape[0]

    def __getitem__(self, samples: slice | Tensor) -> Conditioning:
        """Choose samples by a slice, or by a tensor of indices or booleans."""
        return Conditioning({name: tensor[samples] for name, tensor in self.tensors.items()})

    def repeat(self, times: int) -> Conditioning:
        """Copies of the whole batch one after another, as `Tensor.repeat` on dimension 0."""
        if times < 1:
            raise ValueError(f"`times` must be at least 1, got {times}")
        return Conditioning(
            {
                name: tensor.repeat(times, *[1] * (tensor.ndim - 1))
                for name, tensor in self.tensors.items()
            }
        )

    def joined(self, other: Conditioning) -> Conditioning | None:
        """The samples of both as one batch, or None where their rows differ in shape or dtype."""
        if self._rows() != other._rows():
            return None
        return Conditioning(
            {name: torch.cat([mine, other.tensors[name]]) for name, mine in self.tensors.items()}
        )

    def _rows(self) -> dict[str, tuple[torch.Size, torch.dtype]]:
        return {name: (tensor.shape[1:], tensor.dtype) for name, tensor in self.tensors.items()}

    def to(self, device: torch.device | str) -> Conditioning:
        """The same conditioning on another device; its ``lengths`` stay on the CPU."""
        tensors = self.tensors.items()
        return Conditioning({n: each if n == LENGTHS else each.to(device) for n, each in tensors})


@runtime_checkable
class Backbone(Protocol):
    """A text-to-image flow-matching model as the trainer sees it.

    B is the number of samples, N of steps. Latents may have any rank: only dimension 0 is known.

    Example:
        >>> class Blobs:
        ...     def __init__(self):
        ...         self.module = nn.Conv2d(4, 3, 3, padding=1)
        ...         self.device = torch.device("cpu")
        ...     def encode(self, prompts):
        ...         return Conditioning({"length": torch.tensor([[len(p) / 50] for p in prompts])})
        ...     def noise(self, count, *, height, width, generator):
        ...         return torch.randn(count, 3, height, width, generator=generator)
        ...     def sigmas(self, steps, *, height, width):
        ...         return torch.linspace(1, 0, steps + 1)
        ...     def velocity(self, conditioning):
        ...         def field(latents, sigma):
        ...             plane = (conditioning.tensors["length"] + sigma)[:, :, None, None]
        ...             inputs = [latents, plane.expand(-1, 1, *latents.shape[2:])]
        ...             return self.module(torch.cat(inputs, dim=1))
        ...         return field
        ...     def decode(self, latents):
        ...         return latents.sigmoid()
        ...     def trainable(self):
        ...         return dict(self.module.named_parameters())
        ...     def save(self, folder):
        ...         torch.save(self.module.state_dict(), folder / "model.pt")
        >>> from flowbp.testing import check_backbone
        >>> check_backbone(Blobs(), ["a circle", "two squares"], height=8, width=8)
    """

    @property
    def module(self) -> nn.Module:
        """The network that is trained."""
        ...

    @property
    def device(self) -> torch.device:
        """Where latents, conditioning and images live."""
        ...

    def encode(self, prompts: Sequence[str]) -> Conditioning:
        """Encode B prompts, without gradient; ``""`` is the empty prompt of guidance."""
        ...

    def noise(self, count: int, *, height: int, width: int, generator: torch.Generator) -> Tensor:
        """Draw the starting latents (count, …) of pictures of `height` x `width` pixels."""
        ...

    def sigmas(self, steps: int, *, height: int, width: int) -> Tensor:
        """The grid (N+1,) that the model samples on, 1 … 0, float32 on the CPU."""
        ...

    def velocity(self, conditioning: Conditioning) -> VelocityField:
        """The velocity field under `conditioning`; differentiable in latents and parameters."""
        ...

    def decode(self, latents: Tensor) -> Tensor:
        """Images (B, 3, H, W) in [0, 1]; differentiable in the latents.

        A model of videos gives (B, 3, F, H, W), which the reward must read; the commands take
        pictures alone.
        """
        ...

    def trainable(self) -> Mapping[str, nn.Parameter]:
        """The parameters that training changes, by their name in `module`."""
        ...

    def save(self, folder: Path) -> None:
        """Write the model in its ecosystem's own format, so that others can load it."""
        ...


def guided_field(
    velocity_of: Callable[[Conditioning], VelocityField],
    positive: Conditioning,
    negative: Conditioning | None,
    scale: float,
    *,
    rescale: Rescale | None = None,
) -> VelocityField:
    """The field `v⁻ + scale (v⁺ - v⁻)` of B prompts, for sampling without gradient.

    `negative` is of one sample, which stands for all; None is no guidance. `rescale` is the
    backbone's, see `flowbp.adapters.rescale_of`.

    Reference: Ho and Salimans, arXiv 2207.12598.
    """
    if negative is None:
        return velocity_of(positive)
    opposite = negative.repeat(len(positive))
    both = positive.joined(opposite)
    if both is None:
        branches = velocity_of(positive), velocity_of(opposite)
        return guided_velocity(*branches, scale, rescale=rescale)
    return batched_guided_velocity(velocity_of(both), scale, rescale=rescale)


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
    """Pictures, a float tensor (B, 3, H, W), or videos (B, 3, F, H, W)."""
    if not _is_float(found) or found.ndim not in (4, 5) or found.shape[:2] != (count, 3):
        must = f"a float tensor ({count}, 3, H, W), of videos ({count}, 3, F, H, W)"
        raise _wrong(backbone, "decode", must, found)
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
