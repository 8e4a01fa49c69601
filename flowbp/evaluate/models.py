"""The models of an evaluation: what a checkpoint is, and the backbone under its weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from flowbp.adapters import Backbone, DiffusersBackbone, Loadable, Lora
from flowbp.adapters.extras import require
from flowbp.adapters.loadable import check_transformer
from flowbp.adapters.lora import ADAPTER
from flowbp.adapters.lora_export import trained_scales
from flowbp.adapters.lora_layers import adapter_layers
from flowbp.adapters.lora_source import find_lora
from flowbp.configuration import Problem
from flowbp.configuration.protocols import made_by
from flowbp.evaluate.schema import EvaluateSettings, ModelSection
from flowbp.training import is_averaged, load_unaveraged, model_damage

_INDEX = "model_index.json"


def is_whole(checkpoint: Path) -> bool:
    """Whether a checkpoint is a whole pipeline, and no LoRA.

    Args:
        checkpoint: a folder or file.

    Returns:
        True if it is.

    Example:
        >>> from flowbp.shapes.embedded import base_folder
        >>> is_whole(base_folder())
        True
    """
    return (checkpoint / _INDEX).is_file()


def fault(model: ModelSection) -> tuple[str, str] | None:
    """What is wrong with a model, found without loading it.

    Args:
        model: as it was configured.

    Returns:
        The key at fault and what is wrong with it; None for a sound one.

    Example:
        >>> fault(ModelSection(checkpoint=Path("/none")))
        ('checkpoint', "is '/none', which does not exist; name a folder that a run saved, such as \
runs/a/checkpoints/final, or a LoRA")
    """
    place = model.checkpoint
    if place is None:
        return None
    if not place.exists():
        return "checkpoint", (
            f"is {str(place)!r}, which does not exist; name a folder that a run saved, such as "
            "runs/a/checkpoints/final, or a LoRA"
        )
    damaged = damage(model, content=False)
    if damaged is not None:
        return "checkpoint", damaged
    saved = _saved_in(place)
    if saved is not None:
        return "checkpoint", (
            f"is {str(place)!r}, the folder of a run; name one of its checkpoints. Did you mean "
            f"{str(saved)!r}?"
        )
    if is_whole(place):
        if model.scale != 1:
            return "scale", f"is {model.scale:g}, and {place} is a whole model, no LoRA; remove it"
    else:
        try:
            find_lora(str(place))
            require("peft", extra="lora")
        except ModuleNotFoundError as error:
            return "checkpoint", f"is {str(place)!r}, a LoRA, and {error}"
        except ValueError as error:
            return "checkpoint", (
                f"is {str(place)!r}, which has no {_INDEX} and is no LoRA either: {error}"
            )
    return _fault_of_average(model, place)


def damage(model: ModelSection, *, content: bool = True) -> str | None:
    """What of a checkpoint is not as a run saved it.

    Args:
        model: as it was configured.
        content: whether its files are read, and not only their names and sizes.

    Returns:
        What is wrong with its key `checkpoint`; None if nothing is, or nothing is known of it.

    Example:
        >>> damage(ModelSection()) is None
        True
    """
    place = model.checkpoint
    if place is None:
        return None
    found = model_damage(place, state=not model.averaged, content=content)
    return found and f"is {str(place)!r}, which is damaged: {found}; take another checkpoint"


def _saved_in(run: Path) -> Path | None:
    """The last checkpoint of a run, if a folder is a run's and no checkpoint itself."""
    if not (run / "checkpoints").is_dir() or is_whole(run):
        return None
    final = run / "checkpoints" / "final"
    names = sorted(path for path in (run / "checkpoints").iterdir() if path.is_dir())
    return final if final.is_dir() or not names else names[-1]


def _fault_of_average(model: ModelSection, place: Path) -> tuple[str, str] | None:
    if model.averaged:
        return None
    try:
        averaged = is_averaged(place)
    except OSError as error:
        return "averaged", f"is false, and {error}; remove it"
    if not averaged:
        return "averaged", f"is false, and the run of {place} averaged nothing; remove it"
    return None


def unloadable(settings: EvaluateSettings, backbone: Any = None) -> list[Problem]:
    """What a backbone lacks to be evaluated from the checkpoints of the models.

    Args:
        settings: of the evaluation.
        backbone: built; if None its class is asked, as far as what the configuration names tells.

    Returns:
        One problem of `backbone` at most.

    Example:
        See `flowbp.evaluate.readiness.refuse_unready`.
    """
    made = type(backbone) if backbone is not None else made_by(settings.backbone.target)
    whole = [label for label, model in settings.models.items() if _is_whole_model(model)]
    if not whole or made is None or callable(getattr(made, "load", None)):
        return []
    message = (
        f"is a {made.__name__}, which has no `load(folder)` to take up the whole model that "
        f"models.{whole[0]}.checkpoint is; give it one, see flowbp.adapters.Loadable"
    )
    return [Problem("backbone", message, "")]


def cheapest_first(models: dict[str, ModelSection]) -> list[str]:
    """An order in which each model can be made of the one before.

    An adapter is taken off again; a whole model overwrites what was there. So whole models come
    last.

    Args:
        models: by label.

    Returns:
        The labels.

    Example:
        >>> cheapest_first({"a": ModelSection(), "b": ModelSection()})
        ['a', 'b']
    """
    return sorted(models, key=lambda label: _is_whole_model(models[label]))


def _is_whole_model(model: ModelSection) -> bool:
    return model.checkpoint is not None and is_whole(model.checkpoint)


@contextmanager
def applied(backbone: Backbone, model: ModelSection) -> Iterator[None]:
    """Have a backbone be a model while the block runs.

    An adapter is gone afterwards; the weights of a whole checkpoint stay.

    Args:
        backbone: as it was loaded, or after a whole checkpoint was applied.
        model: what it is to be.

    Raises:
        ValueError: the checkpoint is of another model, or damaged.
        TypeError: the backbone cannot take up a checkpoint.
        OSError: a file cannot be read.

    Example:
        >>> from flowbp.shapes.embedded import base_folder, embedded_backbone
        >>> with applied(embedded_backbone(), ModelSection(checkpoint=base_folder())):
        ...     print("the same as before")
        the same as before
    """
    place = model.checkpoint
    if place is None:
        yield
    elif is_whole(place):
        if not isinstance(backbone, Loadable):
            raise TypeError(
                f"`checkpoint` {str(place)!r} is a whole model, and {type(backbone).__name__} has "
                "no `load` to take it up; give it one, see flowbp.adapters.Loadable"
            )
        backbone.load(place)
        _unaveraged(backbone, model, place)
        yield
    else:
        with _adapted(backbone, model, place):
            yield


def check_applicable(backbone: Backbone, model: ModelSection) -> None:
    """Refuse a checkpoint of another model, found without reading weights of a whole one.

    Args:
        backbone: of one of the library's families, on torch's meta device.
        model: what it would be.

    Raises:
        ValueError: the checkpoint is of another model, or damaged.
        OSError: a file is missing.

    Example:
        >>> from flowbp.shapes.embedded import base_folder, embedded_backbone
        >>> model = ModelSection(checkpoint=base_folder())
        >>> check_applicable(embedded_backbone(device="meta"), model)
    """
    place = model.checkpoint
    if place is None:
        return
    if not is_whole(place):
        module: Any = backbone.module
        Lora(start=str(place))(backbone, generator=torch.Generator())
        module.unload_lora()
    elif isinstance(backbone, DiffusersBackbone):
        check_transformer(place, backbone.layout, backbone.module)


@contextmanager
def _adapted(backbone: Backbone, model: ModelSection, place: Path) -> Iterator[None]:
    module: Any = backbone.module
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    # Nothing is drawn, for the adapter starts from a file.
    Lora(start=str(place))(backbone, generator=torch.Generator())
    try:
        layers = adapter_layers(module)
        if not model.averaged:
            _unaveraged(backbone, model, place)
            # A file's B has its scale within; the parameters of training have not.
            file = find_lora(str(place))
            for name, scale in (trained_scales(file) if file else {}).items():
                layers[name].scaling[ADAPTER] = scale
        for layer in layers.values():
            layer.scale_layer(model.scale)
        yield
    finally:
        module.unload_lora()
        # An adapter freezes the rest, by which a whole checkpoint's parameters are found.
        for parameter in trained:
            parameter.requires_grad_(True)


def _unaveraged(backbone: Backbone, model: ModelSection, place: Path) -> None:
    if not model.averaged:
        load_unaveraged(backbone.trainable(), place)
