"""Optional dependencies: import them late, and say how to install the one that is missing."""

from __future__ import annotations

from importlib import import_module
from types import ModuleType

DISTRIBUTION = "flowbp-align"
"""What pip installs. `flowbp` alone is also what the code published with the paper calls itself."""


def require(module: str, *, extra: str = "models") -> ModuleType:
    """Import an optional dependency, or say which extra of flowbp brings it."""
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != module.partition(".")[0]:
            raise
        raise ModuleNotFoundError(
            f"`{module}` is needed here and is not installed; run: pip install "
            f'"{DISTRIBUTION}[{extra}]"',
            name=error.name,
        ) from error
