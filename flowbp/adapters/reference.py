"""The velocity a model is held near: of its base under adapters, or of a frozen copy."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from flowbp.adapters.backbone import Conditioning
from flowbp.core import VelocityField

Reference = Callable[[Conditioning], VelocityField]
"""The reference's field under a conditioning, as `Backbone.velocity` is the model's."""


@runtime_checkable
class WithReference(Protocol):
    """A backbone that can tell its reference's velocity, which the reference anchor needs.

    The reference is the model before training; where adapters alone are trained it is the base
    without any adapter, also without one that training went on from. Without this method a backbone
    works as well, but for the anchor.

    Example:
        >>> from flowbp.shapes.embedded import embedded_backbone
        >>> isinstance(embedded_backbone(), WithReference)
        True
    """

    def reference(self) -> Reference:
        """The velocity of the reference, without gradient; ask before training."""
        ...


def reference_of(backbone: Any) -> Reference:
    """Ask a backbone, or what wraps one, for its reference.

    Args:
        backbone: Before training.

    Returns:
        The reference.

    Raises:
        ValueError: It has none.

    Example:
        >>> reference_of(object())
        Traceback (most recent call last):
            ...
        ValueError: `anchor` needs a backbone with a `reference` method, the velocity of the model \
before training, and object has none; give it one, or write anchor=null
    """
    # Not isinstance: from Python 3.12 on it does not see what a wrapper's __getattr__ forwards.
    try:
        ask: Callable[[], Reference] = backbone.reference
    except AttributeError as error:
        raise ValueError(
            "`anchor` needs a backbone with a `reference` method, the velocity of the model before "
            f"training, and {type(error.obj).__name__} has none; give it one, or write anchor=null"
        ) from error
    return ask()


def without_gradient(reference: Reference) -> Reference:
    """The same fields, evaluated under no_grad.

    Args:
        reference: Whose fields may record a graph.

    Returns:
        One whose fields do not.

    Example:
        >>> reference = without_gradient(lambda conditioning: lambda latents, sigma: 2 * latents)
        >>> conditioning = Conditioning({"tokens": torch.zeros(1, 2)})
        >>> latents = torch.ones(1, requires_grad=True)
        >>> reference(conditioning)(latents, torch.tensor(1.0)).requires_grad
        False
    """

    def fields(conditioning: Conditioning) -> VelocityField:
        field = reference(conditioning)

        def velocity(latents: Tensor, sigma: Tensor, /) -> Tensor:
            with torch.no_grad():
                return field(latents, sigma)

        return velocity

    return fields


def only_adapters_train(network: nn.Module) -> bool:
    """Whether a network has peft adapters and trains nothing else, so that its base stays.

    Args:
        network: Any.

    Returns:
        True if it has adapters and none of its other parameters requires a gradient.

    Example:
        >>> only_adapters_train(nn.Linear(1, 1))
        False
    """
    if not _adapter_layers(network):
        return False
    with adapters_disabled(network):
        return not any(parameter.requires_grad for parameter in network.parameters())


@contextmanager
def adapters_disabled(network: nn.Module) -> Iterator[None]:
    """Context in which a network computes as if it had no peft adapters.

    Afterwards, also after an exception, those that were active are so again, and every parameter
    requires a gradient that did.

    Args:
        network: Any; one without adapters stays as it is.

    Yields:
        Nothing.

    Example:
        >>> with adapters_disabled(nn.Linear(1, 1)):
        ...     pass
    """
    layers = [layer for layer in _adapter_layers(network) if not layer.disable_adapters]
    # peft freezes what it disables, and makes all of what it enables trainable.
    flags = [(p, p.requires_grad) for layer in layers for p in layer.parameters()]
    try:
        for layer in layers:
            layer.enable_adapters(False)
        yield
    finally:
        for layer in layers:
            layer.enable_adapters(True)
        for parameter, flag in flags:
            parameter.requires_grad_(flag)


def frozen_copy(network: nn.Module, dtype: torch.dtype) -> Any:
    """A copy of a network that no training moves.

    Args:
        network: Any.
        dtype: Of the copy's floating-point parameters and buffers, which are copied straight into
            it, so that there never is a second copy in the network's own.

    Returns:
        A network of the same class that shares no storage and requires no gradient.

    Example:
        >>> linear = nn.Linear(1, 1)
        >>> frozen = frozen_copy(linear, torch.bfloat16)
        >>> frozen.weight.dtype, frozen.weight.requires_grad, linear.weight.requires_grad
        (torch.bfloat16, False, True)
    """

    def copied(tensor: Tensor) -> Tensor:
        kept = dtype if tensor.is_floating_point() else tensor.dtype
        return tensor.detach().to(kept, copy=True)

    memo: dict[int, Any] = {id(buffer): copied(buffer) for buffer in network.buffers()}
    for parameter in network.parameters():
        memo[id(parameter)] = nn.Parameter(copied(parameter), requires_grad=False)
    return copy.deepcopy(network, memo)


def _adapter_layers(network: nn.Module) -> list[Any]:
    if not getattr(network, "peft_config", None):
        return []
    from peft.tuners.tuners_utils import BaseTunerLayer

    return [module for module in network.modules() if isinstance(module, BaseTunerLayer)]
