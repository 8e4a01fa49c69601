"""Whether what is in a folder is of this evaluation, so that it can go on."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from flowbp.cli.evaluate.fingerprint import Digests, differences, fingerprint
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
from flowbp.training.checkpoint import TRAINING, is_beside

CONFIGURATION, MODELS = "configuration.yaml", "models"

_DECISIVE = ("backbone", "prompts", "sampling")
"""Sections on which every picture depends. Models have a file each; metrics too, beside what they
found; seeds only say how many pictures there are."""

_ROUNDING = {"sampling.batch", "sampling.decode", "backbone.decode_batch"}
_CURE = "give the former value, or name another evaluation.folder"


@attrs.frozen(kw_only=True)
class ModelFingerprint:
    """What the pictures of a model are made with, as the file of the model holds it."""

    backbone: Mapping[str, Any]
    model: Mapping[str, Any]
    # Stands in every picture, and tells it from those of another evaluation of the same labels.
    origin: str


def model_fingerprint(settings: EvaluateSettings, label: str, digests: Digests) -> ModelFingerprint:
    """What the pictures of a model would be made with now."""
    backbone = fingerprint(settings.backbone, digests)
    model = identity(settings.models[label], digests)
    tree = resolved_values(settings)
    files = {name: found for name, found in backbone.items() if isinstance(found, Mapping)}
    whole = json.dumps([tree["backbone"], tree["sampling"], files, model], sort_keys=True)
    origin = hashlib.sha256(whole.encode()).hexdigest()
    return ModelFingerprint(backbone=backbone, model=model, origin=origin)


def identity(model: ModelSection, digests: Digests) -> dict[str, Any]:
    """What a model's pictures depend on besides the backbone: its keys and its files' content."""
    place = model.checkpoint

    def counts(name: str) -> bool:
        if is_beside(name):
            return False
        weights = not model.averaged and name.endswith(".safetensors")
        return weights or not name.startswith(f"{TRAINING}/")

    return {
        "averaged": model.averaged,
        "scale": model.scale,
        "checkpoint": {} if place is None else dict(digests.of(place, counts=counts)),
    }


def write_fingerprint(settings: EvaluateSettings, label: str, digests: Digests) -> str:
    """Write down what a model is, before its first picture is made, and return the origin."""
    folder, now = settings.evaluation.folder, model_fingerprint(settings, label, digests)
    kept = read_fingerprint(folder, label)
    # A commit may be known only now, and a folder may have been moved.
    now = now if kept is None else attrs.evolve(now, origin=kept.origin)
    write_atomically(_path(folder, label), sealed(attrs.asdict(now)))
    digests.keep()
    return now.origin


def read_fingerprint(folder: Path, label: str) -> ModelFingerprint | None:
    """What the pictures of a model that are there were made with."""
    path = _path(folder, label)
    if not path.exists():
        return None
    cure = f"remove it and {folder / 'images' / label}, and its pictures are made again"
    try:
        return read_sealed(ModelFingerprint, path, cure=cure)
    except DamagedError as error:
        raise _refused(f"is {folder}, whose {path} {error.problem}; {error.cure}") from error


def refuse_another_evaluation(settings: EvaluateSettings, digests: Digests) -> None:
    """Refuse a folder whose pictures were made otherwise."""
    folder = settings.evaluation.folder
    path = folder / CONFIGURATION
    if not path.is_file():
        raise _refused(
            f"is {folder}, which has no {CONFIGURATION}, so there is nothing to resume; "
            "correct the folder, or leave --resume out to begin there"
        )
    try:
        old = plain(read_file(path))
    except ConfigurationError as error:
        raise _refused(f"is {folder}, whose {CONFIGURATION} cannot be read ({error})") from error
    before, now = (
        {section: tree.get(section) for section in _DECISIVE}
        for tree in (old, resolved_values(settings))
    )
    allowed = _ROUNDING | _known_by_content(settings, digests)
    problems = [
        Problem(c.key, f"was {c.old} when the pictures were made, and is now {c.new}; {_CURE}", "")
        for c in changes(before, now)
        if c.key not in allowed
    ]
    if problems:
        raise ConfigurationError(problems)
    # A backbone that is configured otherwise is made of something else, too.
    refuse_changed(settings, digests)


def _known_by_content(settings: EvaluateSettings, digests: Digests) -> set[str]:
    """Keys of the backbone whose files are compared, so that these may lie elsewhere by now."""
    kept = (read_fingerprint(settings.evaluation.folder, label) for label in settings.models)
    before = next((each.backbone for each in kept if each is not None), {})
    now = fingerprint(settings.backbone, digests) if before else {}
    of_files = (name for name, found in now.items() if isinstance(found, Mapping))
    return {f"backbone.{name}" for name in of_files if isinstance(before.get(name), Mapping)}


def refuse_changed(settings: EvaluateSettings, digests: Digests) -> None:
    """Refuse models whose files or code are not those that made their pictures."""
    problems = list(_changed(settings, digests))
    if problems:
        raise ConfigurationError(problems)


def _changed(settings: EvaluateSettings, digests: Digests) -> Iterator[Problem]:
    folder, of_backbone = settings.evaluation.folder, dict[str, None]()
    for label in settings.models:
        kept, images = read_fingerprint(folder, label), folder / "images" / label
        if kept is None:
            # It is written before the first picture is.
            if any(images.glob("*.png")):
                message = (
                    f"has pictures, and {_path(folder, label)}, which says what they were made "
                    f"with, is missing; restore it, or remove {images}"
                )
                yield Problem(f"models.{label}", message, "")
            continue
        now = model_fingerprint(settings, label, digests)
        of_backbone |= dict.fromkeys(differences(kept.backbone, now.backbone))
        changed = list(differences(kept.model, now.model))
        if changed:
            message = (
                f"is not the model that its pictures were made with: {_named(changed)} changed; "
                f"give it another label, or remove {_path(folder, label)} and {images}"
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


def _path(folder: Path, label: str) -> Path:
    return folder / MODELS / f"{label}.json"


def _refused(message: str) -> ConfigurationError:
    return ConfigurationError([Problem("evaluation.folder", message, "")])
