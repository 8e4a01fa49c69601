"""Optional dependencies: import them late, and say how to install the one that is missing."""

from __future__ import annotations

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

DISTRIBUTION = "flowbp-align"
"""What pip installs. `flowbp` alone is also what the code published with the paper calls itself."""


def install(extra: str) -> str:
    """What brings an extra of flowbp, to be typed.

    Example:
        >>> install("models")
        'pip install "flowbp-align[models]"'
    """
    return f'pip install "{DISTRIBUTION}[{extra}]"'


def require(module: str, *, extra: str = "models") -> ModuleType:
    """Import an optional dependency, or say which extra of flowbp brings it."""
    try:
        return import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != module.partition(".")[0]:
            raise
        raise ModuleNotFoundError(_missing(module, extra), name=error.name) from error


def packaged(module: str, file: str, *, extra: str) -> Path:
    """A data file of an installed package, by its path in it; none of the package's code is run."""
    spec = find_spec(module)
    if spec is None or not spec.submodule_search_locations:
        raise ModuleNotFoundError(_missing(module, extra), name=module)
    path = Path(spec.submodule_search_locations[0], file)
    if not path.is_file():
        raise FileNotFoundError(
            f"the installed package `{module}` lacks {file}; install it again: pip "
            f'install --force-reinstall "{DISTRIBUTION}[{extra}]"'
        )
    return path


def _missing(module: str, extra: str) -> str:
    return f"`{module}` is needed here and is not installed; run: {install(extra)}"
