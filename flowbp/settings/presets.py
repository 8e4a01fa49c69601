"""The published settings that come with the library, as files to name before one's own."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

from flowbp.configuration import ConfigurationError, Problem
from flowbp.configuration.problems import listed, nearest

_FOLDER = "presets"


def presets() -> dict[str, Path]:
    """The presets by what is typed to name them, in alphabetical order.

    Returns:
        Such as ``presets/bridge.yaml`` to its path.

    Example:
        >>> presets()["presets/bridge.yaml"].name
        'bridge.yaml'
    """
    folder = Path(str(files("flowbp"))) / _FOLDER
    return {f"{_FOLDER}/{path.name}": path for path in sorted(folder.glob("*.yaml"))}


def preset_or_file(typed: str) -> Path:
    """Where a file is that was typed: in the working folder, or else among the presets.

    Args:
        typed: a path; ``presets/NAME.yaml`` is a preset unless there is a file of that name.

    Returns:
        The path; it exists if it is a preset.

    Raises:
        ConfigurationError: neither a file nor a preset has the name ``presets/...``.

    Example:
        >>> preset_or_file("presets/bridge.yaml") == presets()["presets/bridge.yaml"]
        True
        >>> preset_or_file("my.yaml")
        PosixPath('my.yaml')
    """
    path, there = Path(typed), presets()
    if path.exists() or path.parts[:1] != (_FOLDER,):
        return path
    if str(path) not in there:
        names = [preset.name for preset in there.values()]
        message = (
            f"is no file from here, and no preset. {nearest(path.name, names)}"
            f"Presets: {listed(names)}"
        )
        raise ConfigurationError([Problem("", message, typed)])
    return there[str(path)]


def preset_listing() -> str:
    """The presets and what each of them is, a line each.

    Returns:
        Lines without a newline at the end.

    Example:
        >>> print(preset_listing().splitlines()[0])
        presets/bridge.yaml       Bridge: a few steps of the path and one Jacobian at a joint; \
numbers by backbone
    """
    there = presets()
    width = max(map(len, there))
    return "\n".join(f"{name:<{width}}  {_subject(path)}" for name, path in there.items())


def _subject(path: Path) -> str:
    return path.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")
