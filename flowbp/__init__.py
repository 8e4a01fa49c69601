"""Align text-to-image flow-matching models by back-propagating a reward through the sampler."""

from __future__ import annotations

from importlib import import_module

# What type checkers take for true; `typing` itself would cost milliseconds.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from .core import (
        Bridge,
        DRaFT,
        DRaFTLV,
        DRTune,
        Lagrange,
        LeapAlign,
        ReFL,
        Segment,
        Sparse,
        Surrogate,
        Trajectory,
        Variant,
        exact_vjp,
        functional_pull,
        guided_pull,
        guided_velocity,
        module_pull,
        residuals,
        rollout,
        surrogate_vjp,
        sweep,
    )

__version__ = "0.2.0"

__all__ = [
    "Bridge",
    "DRTune",
    "DRaFT",
    "DRaFTLV",
    "Lagrange",
    "LeapAlign",
    "ReFL",
    "Segment",
    "Sparse",
    "Surrogate",
    "Trajectory",
    "Variant",
    "__version__",
    "exact_vjp",
    "functional_pull",
    "guided_pull",
    "guided_velocity",
    "module_pull",
    "residuals",
    "rollout",
    "surrogate_vjp",
    "sweep",
]


def __getattr__(name: str) -> object:
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    # Late, because torch takes seconds, in which a command must already mind Ctrl-C.
    found: object = getattr(import_module("flowbp.core"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
