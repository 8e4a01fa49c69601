"""Whether what is in a folder is of this evaluation, so that it can go on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from flowbp.configuration import ConfigurationError, Problem, plain, read_file, read_text
from flowbp.evaluate.schema import EvaluateSettings, ModelSection
from flowbp.files import write_whole
from flowbp.settings import changes, resolved

CONFIGURATION, MODELS = "configuration.yaml", "models"

_DECISIVE = ("backbone", "prompts", "sampling")
"""Sections on which every picture depends. Models have a file each; metrics too, beside what they
found; seeds only say how many pictures there are."""

_ROUNDING = ("sampling.batch", "sampling.decode", "backbone.decode_batch")
_CURE = "give the former value, or name another evaluation.folder"


def refuse_others(settings: EvaluateSettings) -> None:
    """Refuse a folder whose pictures were made otherwise.

    Args:
        settings: of the evaluation that is to go on.

    Raises:
        ConfigurationError: there is no evaluation in the folder, or one of another backbone,
            other prompts or another sampling, or a checkpoint is not the one it was.

    Example:
        See `flowbp.evaluate.execution.execute`.
    """
    folder = settings.evaluation.folder
    path = folder / CONFIGURATION
    if not path.is_file():
        raise _refused(
            f"is {folder}, which has no {CONFIGURATION}, so that there is nothing to resume; "
            "correct the folder, or leave --resume out to begin there"
        )
    try:
        old = plain(read_file(path))
    except ConfigurationError as error:
        raise _refused(f"is {folder}, whose {CONFIGURATION} cannot be read ({error})") from error
    new = plain(read_text(resolved(settings), "the settings"))
    problems = [
        Problem(c.key, f"was {c.old} when the pictures were made, and is now {c.new}; {_CURE}", "")
        for c in changes(_decisive(old), _decisive(new))
        if c.key not in _ROUNDING
    ]
    for label, model in settings.models.items():
        kept = _kept(folder, label)
        if kept is not None and kept != identity(model):
            message = (
                "was another model when its pictures were made: the checkpoint's files or its keys "
                f"have changed; give it another label, or remove {_path(folder, label)} and "
                f"{folder / 'images' / label}"
            )
            problems.append(Problem(f"models.{label}", message, ""))
    if problems:
        raise ConfigurationError(problems)


def identity(model: ModelSection) -> dict[str, Any]:
    """What a model's pictures depend on: its keys, and its files by their sizes and times.

    Args:
        model: as it was configured.

    Returns:
        A tree of JSON.

    Example:
        >>> identity(ModelSection())
        {'checkpoint': None, 'averaged': True, 'scale': 1.0, 'files': {}}
    """
    place = model.checkpoint
    files: Mapping[str, Any] = {}
    if place is not None:
        found = sorted(place.rglob("*")) if place.is_dir() else [place]
        files = {
            str(path.relative_to(place.parent)): [path.stat().st_size, path.stat().st_mtime_ns]
            for path in found
            if path.is_file()
        }
    return {
        "checkpoint": None if place is None else str(place),
        "averaged": model.averaged,
        "scale": model.scale,
        "files": dict(files),
    }


def keep_identity(folder: Path, label: str, model: ModelSection) -> None:
    """Write down what a model is, before its first picture is made.

    Args:
        folder: of the evaluation.
        label: of the model.
        model: as it was configured.

    Raises:
        OSError: the file cannot be written.

    Example:
        See `flowbp.evaluate.generating.generate_missing`.
    """
    write_whole(_path(folder, label), json.dumps(identity(model), indent=1) + "\n")


def _path(folder: Path, label: str) -> Path:
    return folder / MODELS / f"{label}.json"


def _kept(folder: Path, label: str) -> Any:
    path = _path(folder, label)
    if not path.is_file():
        return None
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise _refused(f"is {folder}, whose {path} is damaged ({error}); remove it") from error


def _decisive(tree: Mapping[str, Any]) -> dict[str, Any]:
    return {section: tree.get(section) for section in _DECISIVE}


def _refused(message: str) -> ConfigurationError:
    return ConfigurationError([Problem("evaluation.folder", message, "")])
