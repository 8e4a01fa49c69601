"""The section `run`: where a run writes and what it runs on."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import attrs

from flowbp.adapters import ACTIVATIONS
from flowbp.core._validators import integer, real
from flowbp.limits import SEED, THREADS
from flowbp.settings.devices import check_device

# Untyped, because mypy takes the type of a field from its default alone.
_optional: Any = attrs.validators.optional


@attrs.frozen(kw_only=True)
class RunSettings:
    """Where a run writes and what it runs on.

    Args:
        folder: everything that the run writes goes here; it must be new or empty, unless the run
            that is in it goes on.
        seed: of prompts, plans, noise and copies. The same seed gives the same run.
        device: `auto` takes CUDA where there is any, else the CPU.
        threads: of torch on the CPU; torch decides if null.
        compile: the network's blocks and the decoder with torch.compile; the first steps take a
            minute or two longer, the others about half as long on an H100.
        activations: share of the memory for activations that compiled blocks keep in a backward
            pass, 0.5 if null; less is slower. Only with `compile`.

    Raises:
        ValueError: a number is out of range, torch knows no such device, or `activations` without
            `compile`.

    Example:
        >>> RunSettings(folder=Path("runs/first")).device
        'auto'
    """

    folder: Path
    seed: int = attrs.field(default=0, validator=integer(0, SEED))
    device: str = attrs.field(default="auto", validator=check_device)
    threads: int | None = attrs.field(default=None, validator=_optional(integer(1, THREADS)))
    compile: bool = attrs.field(default=False, validator=attrs.validators.instance_of(bool))
    activations: float | None = attrs.field(default=None, validator=_optional(real(0, 1)))

    def __attrs_post_init__(self) -> None:
        """Refuse what would not be read."""
        if self.activations is not None and not self.compile:
            raise ValueError(
                f"`activations` is {self.activations}, but only compiled blocks choose what they "
                "keep; write compile=true, or leave activations out"
            )

    @property
    def kept_activations(self) -> float:
        """The share that compiled blocks keep: `activations`, or what they keep by default."""
        return ACTIVATIONS if self.activations is None else self.activations
