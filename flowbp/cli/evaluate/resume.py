"""Whether what is in a folder is of this evaluation, so that it can go on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from flowbp.cli.evaluate.fingerprint import Digests, differences, made_of
from flowbp.cli.evaluate.settings import EvaluateSettings, ModelSection
from flowbp.config import (
    ConfigurationError,
    DamagedError,
    Problem,
    plain,
    read_file,
    read_sealed,
    sealed,
)
from flowbp.files import write_atomically
from flowbp.settings import changes, resolved_values
from flowbp.training.checkpoint import TRAINING

CONFIGURATION, MODELS = "configuration.yaml", "models"

_DECISIVE = ("backbone", "prompts", "sampling")
"""Sections on which every picture depends. Models have a file each; metrics too, beside what they
found; seeds only say how many pictures there are."""

_ROUNDING = ("sampling.batch", "sampling.decode", "backbone.decode_batch")
_WEIGHTS = ".safetensors"
_CURE = "give the former value, or name another evaluation.folder"


@attrs.frozen(kw_only=True)
class _Made:
    """What the pictures of a model were made with."""

    backbone: Mapping[str, Any]
    model: Mapping[str, Any]


def refuse_another_evaluation(settings: EvaluateSettings, digests: Digests) -> None:
    """Refuse a folder whose pictures were made otherwise."""
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
    new = resolved_values(settings)
    moved = _known_by_content(settings, digests)
    problems = [
        Problem(c.key, f"was {c.old} when the pictures were made, and is now {c.new}; {_CURE}", "")
        for c in changes(_decisive(old), _decisive(new))
        if c.key not in _ROUNDING and c.key not in moved
    ]
    # A backbone that is configured otherwise is made of something else, too.
    problems = problems or list(_changed(settings, digests))
    if problems:
        raise ConfigurationError(problems)


def _known_by_content(settings: EvaluateSettings, digests: Digests) -> set[str]:
    """Keys of the backbone whose files are compared, so that these may lie elsewhere by now."""
    kept = [_read_identity(settings.evaluation.folder, label) for label in settings.models]
    trees = [made_of(settings.backbone, digests), *(each.backbone for each in kept if each)]
    names = trees[0].keys() if len(trees) > 1 else ()
    return {
        f"backbone.{name}"
        for name in names
        if all(isinstance(tree.get(name), Mapping) for tree in trees)
    }


def refuse_changed(settings: EvaluateSettings, digests: Digests) -> None:
    """Refuse models whose files or code are not those that made their pictures."""
    problems = list(_changed(settings, digests))
    if problems:
        raise ConfigurationError(problems)


def _changed(settings: EvaluateSettings, digests: Digests) -> Iterator[Problem]:
    folder, backbone = settings.evaluation.folder, made_of(settings.backbone, digests)
    of_backbone: dict[str, None] = {}
    for label, model in settings.models.items():
        kept = _read_identity(folder, label)
        if kept is None:
            # It is written before the first picture is.
            if any((folder / "images" / label).glob("*.png")):
                message = (
                    f"has pictures, and {_path(folder, label)}, which says what they were made "
                    f"with, is missing; restore it, or remove {folder / 'images' / label}"
                )
                yield Problem(f"models.{label}", message, "")
            continue
        of_backbone |= dict.fromkeys(differences(kept.backbone, backbone))
        changed = list(differences(kept.model, identity(model, digests)))
        if changed:
            message = (
                f"is not the model that its pictures were made with: {_named(changed)} changed; "
                f"give it another label, or remove {_path(folder, label)} and "
                f"{folder / 'images' / label}"
            )
            yield Problem(f"models.{label}", message, "")
    if of_backbone:
        message = (
            f"is not the model that the pictures were made with: {_named(list(of_backbone))} "
            "changed; take the former one, or name another evaluation.folder"
        )
        yield Problem("backbone", message, "")


def _named(changed: Sequence[str]) -> str:
    more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
    return f"{changed[0]}{more}"


def identity(model: ModelSection, digests: Digests) -> dict[str, Any]:
    """What a model's pictures depend on besides the backbone: its keys and its files' content."""
    place = model.checkpoint

    def counts(name: str) -> bool:
        weights = not model.averaged and name.endswith(_WEIGHTS)
        return weights or not name.startswith(f"{TRAINING}/")

    return {
        "averaged": model.averaged,
        "scale": model.scale,
        "checkpoint": {} if place is None else dict(digests.of(place, counts=counts)),
    }


def origin(settings: EvaluateSettings, label: str, digests: Digests) -> str:
    """What tells a model's pictures from those of another evaluation that has the same labels."""
    # A commit may be known later only, and a folder may be moved.
    made = made_of(settings.backbone, digests)
    files = {name: found for name, found in made.items() if isinstance(found, Mapping)}
    moving = {*_ROUNDING, *(f"backbone.{name}" for name in files)}
    tree = resolved_values(settings)
    leaves = {
        f"{section}.{key}": value
        for section in ("backbone", "sampling")
        for key, value in tree[section].items()
        if f"{section}.{key}" not in moving
    }
    found = [leaves, files, identity(settings.models[label], digests)]
    return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()


def write_identity(settings: EvaluateSettings, label: str, digests: Digests) -> None:
    """Write down what a model is, before its first picture is made."""
    found = {
        "backbone": made_of(settings.backbone, digests),
        "model": identity(settings.models[label], digests),
    }
    path = _path(settings.evaluation.folder, label)
    write_atomically(path, sealed(found))
    digests.keep()


def _path(folder: Path, label: str) -> Path:
    return folder / MODELS / f"{label}.json"


def _read_identity(folder: Path, label: str) -> _Made | None:
    path = _path(folder, label)
    if not path.exists():
        return None
    cure = f"remove it and {folder / 'images' / label}, and its pictures are made again"
    try:
        return read_sealed(_Made, path, cure=cure)
    except DamagedError as error:
        raise _refused(f"is {folder}, whose {path} {error.problem}; {error.cure}") from error


def _decisive(tree: Mapping[str, Any]) -> dict[str, Any]:
    return {section: tree.get(section) for section in _DECISIVE}


def _refused(message: str) -> ConfigurationError:
    return ConfigurationError([Problem("evaluation.folder", message, "")])
