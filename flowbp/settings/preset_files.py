"""The published settings that come with the library, as files to name before one's own."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from importlib.resources import files
from pathlib import Path

from flowbp.config import ConfigurationError, Problem
from flowbp.config.problems import listed, nearest

_FOLDER = "presets"


def presets() -> dict[str, Path]:
    """The presets by what is typed to name them: models, their methods, rewards."""
    folder = Path(str(files("flowbp"))) / _FOLDER
    found = sorted(folder.rglob("*.yaml"), key=lambda path: path.with_suffix("").parts)
    return {f"{_FOLDER}/{path.relative_to(folder).as_posix()}": path for path in found}


def preset_or_file(typed: str) -> Path:
    """Where a file is that was typed: in the working folder, or else among the presets."""
    path, there = Path(typed), presets()
    if path.exists() or path.parts[:1] != (_FOLDER,):
        return path
    if path.as_posix() not in there:
        message = (
            f"is no file from here, and no preset. {nearest(path.as_posix(), there)}"
            f"Presets: {listed(there)}"
        )
        raise ConfigurationError([Problem("", message, typed)])
    return there[path.as_posix()]


def mixed_presets(typed: Sequence[str]) -> Iterator[Problem]:
    """A method's numbers for one model beside the preset of another."""
    there = presets()
    named = [Path(each) for each in typed if Path(each).as_posix() in there]
    owned = {Path(each).parts[1] for each in there if len(Path(each).parts) == 3}
    models = [path.stem for path in named if len(path.parts) == 2 and path.stem in owned]
    for path in named:
        if len(path.parts) == 3 and models and path.parts[1] not in models:
            message = (
                f"has the numbers for {path.parts[1]}, and the model is {models[0]}; take "
                f"{_FOLDER}/{models[0]}/{path.name}"
            )
            yield Problem("", message, path.as_posix())


def preset_listing() -> str:
    """The presets and what each of them is, a line each."""
    there = presets()
    width = max(map(len, there))
    return "\n".join(f"{name:<{width}}  {_subject(path)}" for name, path in there.items())


def _subject(path: Path) -> str:
    return path.read_text(encoding="utf-8").partition("\n")[0].removeprefix("# ")
