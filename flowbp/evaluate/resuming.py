"""Whether what is in a folder is of this evaluation, so that it can go on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from flowbp.configuration import (
    ConfigurationError,
    DamagedError,
    Problem,
    plain,
    read_file,
    read_sealed,
    read_text,
    sealed,
)
from flowbp.evaluate.digests import Digests
from flowbp.evaluate.fingerprints import differences, made_of
from flowbp.evaluate.schema import EvaluateSettings, ModelSection
from flowbp.files import write_whole
from flowbp.settings import changes, resolved
from flowbp.training.manifest import TRAINING

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


def refuse_others(settings: EvaluateSettings, digests: Digests) -> None:
    """Refuse a folder whose pictures were made otherwise.

    Args:
        settings: of the evaluation that is to go on.
        digests: of files.

    Raises:
        ConfigurationError: there is no evaluation in the folder, or one of another backbone,
            other prompts or another sampling, or a model is not the one it was.
        OSError: a file cannot be read.

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
    kept = [_kept(settings.evaluation.folder, label) for label in settings.models]
    trees = [made_of(settings.backbone, digests), *(each.backbone for each in kept if each)]
    names = trees[0].keys() if len(trees) > 1 else ()
    return {
        f"backbone.{name}"
        for name in names
        if all(isinstance(tree.get(name), Mapping) for tree in trees)
    }


def refuse_changed(settings: EvaluateSettings, digests: Digests) -> None:
    """Refuse models whose files or code are not those that made their pictures.

    Args:
        settings: of the evaluation.
        digests: of files.

    Raises:
        ConfigurationError: with what has changed.
        OSError: a file cannot be read.

    Example:
        See `flowbp.evaluate.generating.generate_missing`.
    """
    problems = list(_changed(settings, digests))
    if problems:
        raise ConfigurationError(problems)


def _changed(settings: EvaluateSettings, digests: Digests) -> Iterator[Problem]:
    folder, backbone = settings.evaluation.folder, made_of(settings.backbone, digests)
    of_backbone: dict[str, None] = {}
    for label, model in settings.models.items():
        kept = _kept(folder, label)
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
                f"was another model when its pictures were made, for {_named(changed)} changed; "
                f"give it another label, or remove {_path(folder, label)} and "
                f"{folder / 'images' / label}"
            )
            yield Problem(f"models.{label}", message, "")
    if of_backbone:
        message = (
            f"was another model when the pictures were made, for {_named(list(of_backbone))} "
            "changed; take the former one, or name another evaluation.folder"
        )
        yield Problem("backbone", message, "")


def _named(changed: Sequence[str]) -> str:
    more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
    return f"{changed[0]}{more}"


def identity(model: ModelSection, digests: Digests) -> dict[str, Any]:
    """What a model's pictures depend on besides the backbone: its keys and its files' content.

    Args:
        model: as it was configured.
        digests: of files.

    Returns:
        A tree of JSON; the checkpoint's place is not in it, as it may have been moved, and of its
        state of training only the weights are, where these are taken.

    Raises:
        OSError: a file cannot be read.

    Example:
        >>> identity(ModelSection(), Digests(Path("/none")))
        {'averaged': True, 'scale': 1.0, 'checkpoint': {}}
    """
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
    """What tells a model's pictures from those of another evaluation that has the same labels.

    Args:
        settings: of the evaluation.
        label: of the model.
        digests: of files.

    Returns:
        A digest of the settings that decide on every picture, and of the files of the model.

    Raises:
        OSError: a file cannot be read.

    Example:
        See `flowbp.evaluate.generating.generate_missing`.
    """
    # A commit may be known later only, and a folder may be moved.
    made = made_of(settings.backbone, digests)
    files = {name: found for name, found in made.items() if isinstance(found, Mapping)}
    moving = {*_ROUNDING, *(f"backbone.{name}" for name in files)}
    tree = plain(read_text(resolved(settings), "the settings"))
    leaves = {
        f"{section}.{key}": value
        for section in ("backbone", "sampling")
        for key, value in tree[section].items()
        if f"{section}.{key}" not in moving
    }
    found = [leaves, files, identity(settings.models[label], digests)]
    return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()


def keep_identity(settings: EvaluateSettings, label: str, digests: Digests) -> None:
    """Write down what a model is, before its first picture is made.

    Args:
        settings: of the evaluation, whose backbone is loaded.
        label: of the model.
        digests: of files.

    Raises:
        OSError: the file cannot be written, or one of the model's cannot be read.

    Example:
        See `flowbp.evaluate.generating.generate_missing`.
    """
    found = {
        "backbone": made_of(settings.backbone, digests),
        "model": identity(settings.models[label], digests),
    }
    path = _path(settings.evaluation.folder, label)
    write_whole(path, sealed(found))
    digests.keep()


def _path(folder: Path, label: str) -> Path:
    return folder / MODELS / f"{label}.json"


def _kept(folder: Path, label: str) -> _Made | None:
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
