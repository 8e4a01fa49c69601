"""What a backbone may have besides the `Backbone` protocol: none of these is required."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from torch import Tensor, nn

from flowbp.adapters.backbone import Conditioning
from flowbp.adapters.dtype_policy import DtypePolicy
from flowbp.adapters.text_encoders import TextEncoders
from flowbp.core import Rescale, VelocityField

Checkpointing = bool | Literal["auto"]
"""Recompute activations in the backward pass: always, never, or where a run finds it has to."""


@runtime_checkable
class WithCheckpointing(Protocol):
    """A backbone whose gradient checkpointing a run may switch between two steps.

    Without it, its checkpointing stays as its owner has set it.
    """

    @property
    def gradient_checkpointing(self) -> Checkpointing:
        """What its owner asked for; under `auto` it is off until it is switched."""
        ...

    def checkpoint_gradients(self, on: bool, /) -> None:
        """Switch it, whatever its owner asked for."""
        ...


def checkpointing_of(backbone: Any) -> WithCheckpointing | None:
    """A backbone, or what wraps one, if its gradient checkpointing can be switched; else None."""
    # Not isinstance: from Python 3.12 on it does not see what a wrapper's __getattr__ forwards.
    names = ("gradient_checkpointing", "checkpoint_gradients")
    return backbone if all(hasattr(backbone, name) for name in names) else None


@runtime_checkable
class WithGuidanceAdvice(Protocol):
    """A backbone that knows of scales of guidance it is not made for; a run warns of them."""

    def guidance_problem(self, guidance: float) -> str | None:
        """What is wrong with sampling at this scale, and the cure; None if nothing is."""
        ...


@runtime_checkable
class WithGuidanceRescale(Protocol):
    """A backbone whose sampler changes the guided velocity before it takes a step.

    Without it, or where it is None, a step is taken along `v⁻ + s (v⁺ - v⁻)`.
    """

    @property
    def guidance_rescale(self) -> Rescale | None:
        """What it does; differentiable in both."""
        ...


def rescale_of(backbone: Any) -> Rescale | None:
    """The `guidance_rescale` of a backbone, or of what wraps one."""
    # Not isinstance: from Python 3.12 on it does not see what a wrapper's __getattr__ forwards.
    found: Rescale | None = getattr(backbone, "guidance_rescale", None)
    return found


@runtime_checkable
class WithLoading(Protocol):
    """A backbone that says how others load what it saves; a run prints it at its end."""

    def loading(self, folder: Path) -> str:
        """The lines that load what `save` wrote into `folder`."""
        ...


@runtime_checkable
class WithPlainSampling(Protocol):
    """A backbone that says how its pipeline samples the same; a run prints it at its end."""

    def sampling(
        self, sigmas: Tensor, *, height: int, width: int, guidance: float, negative_prompt: str
    ) -> str:
        """The lines that sample on `sigmas` (N+1,) with ``pipeline``, see `WithLoading`."""
        ...


@runtime_checkable
class Loadable(Protocol):
    """A backbone that can be evaluated from its checkpoints."""

    def load(self, folder: Path) -> None:
        """Take the weights that ``save`` wrote into `folder`, in place of the present ones."""
        ...


@runtime_checkable
class WithFrozenParts(Protocol):
    """A backbone whose saved folder has parts that training never changes.

    A run writes these once and links them into its other checkpoints. Without it each has its own.
    """

    @property
    def frozen_parts(self) -> Sequence[str]:
        """The files and folders, at the top of what `save` may write, that are always the same."""
        ...

    def save_trained(self, folder: Path, /) -> None:
        """Write all that `save` does but for `frozen_parts`."""
        ...


def frozen_parts_of(backbone: Any) -> Sequence[str]:
    """The `frozen_parts` of a backbone, or of what wraps one; none where it has none."""
    method = _beside_save(backbone, "save_trained")
    return () if method is None else backbone.frozen_parts


@runtime_checkable
class WithCopyForSaving(Protocol):
    """A backbone that can be written while it is trained. Without it training waits for `save`."""

    def copy_for_saving(self) -> Callable[[Path], object]:
        """Copy what is trained to the CPU; the function writes it, from another thread perhaps.

        It writes what `save` does but for `frozen_parts`, as all was when it was copied.
        """
        ...


def copy_for_saving_of(backbone: Any) -> Callable[[], Callable[[Path], object]] | None:
    """The `copy_for_saving` of a backbone, or of what wraps one; None where it has none."""
    found: Callable[[], Callable[[Path], object]] | None = _beside_save(backbone, "copy_for_saving")
    return found


def _beside_save(backbone: Any, name: str) -> Any:
    """A method that writes as `save` does; None where a class below has a `save` of its own."""
    # Not isinstance: from Python 3.12 on it does not see what a wrapper's __getattr__ forwards.
    method = getattr(backbone, name, None)
    for each in type(getattr(method, "__self__", None)).__mro__:
        if name in vars(each):
            break
        if "save" in vars(each):
            # Which may write more.
            return None
    return method


Reference = Callable[[Conditioning], VelocityField]
"""The reference's field under a conditioning, as `Backbone.velocity` is the model's."""


@runtime_checkable
class WithReference(Protocol):
    """A backbone that has its reference's velocity, which the reference anchor needs.

    The reference is the model before training; where adapters alone are trained it is the base
    without any adapter, also without one that training went on from.
    """

    def reference(self) -> Reference:
        """The velocity of the reference, without gradient; ask before training."""
        ...


def reference_of(backbone: Any) -> Reference:
    """The reference of a backbone, or of what wraps one; a ValueError if it has none."""
    # Not isinstance: from Python 3.12 on it does not see what a wrapper's __getattr__ forwards.
    try:
        ask: Callable[[], Reference] = backbone.reference
    except AttributeError as error:
        raise ValueError(
            "`anchor` needs a backbone with a `reference` method, the velocity of the model before "
            f"training, and {type(error.obj).__name__} has none; give it one, or write anchor=null"
        ) from error
    return ask()


class WithShift(Protocol):
    """A backbone that shifts a grid by its own scheduler; without it a grid names its `shift`."""

    def shifted(self, levels: Sequence[float], *, height: int, width: int) -> Tensor:
        """The sigmas (N+1,) that N falling levels become, as its pipeline given ``sigmas=``."""
        ...


@runtime_checkable
class Adaptable(Protocol):
    """A backbone that an adapter can be attached to.

    Its `save` should write the adapter alone once there is one, as `save_lora` does.
    """

    @property
    def module(self) -> nn.Module:
        """The network, with diffusers' ``add_adapter`` and ``load_lora_adapter``."""
        ...

    @property
    def policy(self) -> DtypePolicy:
        """Its dtypes; the adapter's weights are in `policy.state`."""
        ...

    @property
    def lora_targets(self) -> Sequence[str]:
        """The linear layers that an adapter is attached to by default, by the ends of names."""
        ...

    @property
    def lora_pipeline(self) -> Any:
        """The class of the diffusers pipeline that reads and writes its adapters."""
        ...


@runtime_checkable
class WithTextEncoders(Protocol):
    """A backbone whose embeddings can be kept on disk, and its encoders offloaded.

    Without it its embeddings are kept in memory only.
    """

    @property
    def text_encoders(self) -> TextEncoders:
        """The encoders of `encode`."""
        ...
