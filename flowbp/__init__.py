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

    __version__: str

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
    # Late, because torch takes seconds, in which a command must already mind Ctrl-C.
    if name == "__version__":
        metadata = import_module("importlib.metadata")
        try:
            found: object = metadata.version("flowbp")
        # A clone that is not installed has none.
        except metadata.PackageNotFoundError:
            found = "unknown"
    elif name in __all__:
        found = getattr(import_module("flowbp.core"), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
