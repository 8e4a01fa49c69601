"""The models of an evaluation: their checkpoints, weights, and what they were trained on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from flowbp.adapters import Backbone, DiffusersBackbone, Loadable, Lora
from flowbp.adapters.lora_files import find_lora, trained_scales
from flowbp.adapters.lora_layers import adapter_layers
from flowbp.adapters.pipeline_files import check_transformer
from flowbp.adapters.tuning import ADAPTER
from flowbp.cli.evaluate.settings import EvaluateSettings, ModelSection
from flowbp.config import ConfigurationError, DamagedError, plain, read_file
from flowbp.config.protocols import made_by
from flowbp.extras import require
from flowbp.settings import resolved_values
from flowbp.settings.component_needs import Found
from flowbp.settings.run_identity import SOURCES, identity_of
from flowbp.training import is_averaged, load_unaveraged, model_damage
from flowbp.training.checkpoint import MANIFEST, read_manifest

_INDEX = "model_index.json"


def is_whole(checkpoint: Path) -> bool:
    """Whether a checkpoint is a whole pipeline, and no LoRA."""
    return (checkpoint / _INDEX).is_file()


def model_fault(model: ModelSection) -> tuple[str, str] | None:
    """What is wrong with a model, found without loading it."""
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
    """What of a checkpoint is not as a run saved it."""
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


def load_fault(settings: EvaluateSettings, backbone: Any = None) -> str | None:
    """What a backbone lacks to be evaluated from the checkpoints of the models."""
    made = type(backbone) if backbone is not None else made_by(settings.backbone.target)
    whole = [label for label, model in settings.models.items() if _is_whole_model(model)]
    if not whole or made is None or callable(getattr(made, "load", None)):
        return None
    return (
        f"is a {made.__name__}, which has no `load(folder)` to take up the whole model that "
        f"models.{whole[0]}.checkpoint is; give it one, see flowbp.adapters.Loadable"
    )


def cheapest_first(models: Mapping[str, ModelSection]) -> list[str]:
    """An order in which each model can be made of the one before."""
    return sorted(models, key=lambda label: _is_whole_model(models[label]))


def _is_whole_model(model: ModelSection) -> bool:
    return model.checkpoint is not None and is_whole(model.checkpoint)


@contextmanager
def applied(backbone: Backbone, model: ModelSection) -> Iterator[None]:
    """Have a backbone be a model while the block runs."""
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
    """Refuse a checkpoint of another model, found without reading weights of a whole one."""
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


_CONFIGURATION = "configuration.yaml"
_SAME_LIKING = {"batch", "policy", "gradient_checkpointing", "verify", "calibration", "mean", "std"}
"""Keys of a reward that change its scale, its rounding or its memory, and not what it likes."""


def trained_on(settings: EvaluateSettings) -> dict[str, tuple[str, ...]]:
    """The metrics that models were trained on, by the model; the others are held out."""
    metrics = resolved_values(settings)["metrics"]
    found = {label: _trained_on(model, metrics) for label, model in settings.models.items()}
    return {label: labels for label, labels in found.items() if labels}


def unmeasured(settings: EvaluateSettings) -> dict[str, str]:
    """The rewards that models were trained on and that no metric measures."""
    known = trained_on(settings)
    rewards = {n: _reward(model) for n, model in settings.models.items() if n not in known}
    return {label: str(each["name"]) for label, each in rewards.items() if each is not None}


def training_faults(settings: EvaluateSettings) -> Found:
    """What is wrong with the rewards that models are said to be trained on."""
    for label, model in settings.models.items():
        named = model.trained_on
        if named is not None and named not in settings.metrics:
            labels = ", ".join(settings.metrics) or "none"
            yield (
                ("models", label, "trained_on"),
                f"is {named!r}, and the metrics are {labels}; name one of these, or add it to them",
            )
        try:
            _reward(model)
        except ValueError as error:
            yield ("models", label, "checkpoint"), str(error)


def _trained_on(model: ModelSection, metrics: Mapping[str, Any]) -> tuple[str, ...]:
    if model.trained_on is not None:
        return (model.trained_on,)
    reward = _reward(model)
    wanted = [] if reward is None else list(_parts(reward))
    return tuple(
        label
        for label, metric in metrics.items()
        if any(_alike(_unwrapped(metric), each) for each in wanted)
    )


def _reward(model: ModelSection) -> Mapping[str, Any] | None:
    """The reward in the configuration of the run in whose folder a checkpoint is."""
    place = model.checkpoint
    if place is None or model.trained_on is not None:
        return None
    folder = place.expanduser().absolute().parent
    path = folder.parent / _CONFIGURATION
    if folder.name != "checkpoints" or not path.is_file():
        return None
    try:
        tree = plain(read_file(path))
        reward: Mapping[str, Any] = tree["reward"]
        _ = reward["name"], list(_parts(reward))
        # The manifest is sealed, and the configuration is not.
        changed = _identity(place) not in (None, identity_of(tree, path.parent))
    except (ConfigurationError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"is {str(place)!r}, and {path}, which says what it was trained on, cannot "
            f"be read ({type(error).__name__}: {error}); restore that file, or write `trained_on`"
        ) from error
    if changed:
        raise ValueError(
            f"is {str(place)!r}, and {path}, which says what it was trained on, is not, together "
            f"with {SOURCES} beside it, the configuration that it was saved under; restore both "
            "files, or write `trained_on`"
        )
    return reward


def _identity(checkpoint: Path) -> str | None:
    """The identity that a checkpoint was saved under, None where that is not known."""
    try:
        return read_manifest(checkpoint).identity if (checkpoint / MANIFEST).is_file() else None
    # That it is damaged is what is wrong with the checkpoint, and `model_fault` reports it.
    except DamagedError:
        return None


def _parts(reward: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """A reward, and those parts of a sum that were to rise."""
    yield reward
    if reward["name"] == "weighted":
        yield from (p["reward"] for p in reward["parts"].values() if p.get("weight", 1) > 0)


def _unwrapped(metric: Mapping[str, Any]) -> Mapping[str, Any]:
    nested = metric.get("reward")
    return nested if metric["name"] == "reward" and isinstance(nested, Mapping) else metric


def _alike(one: Any, other: Any) -> bool:
    """Whether two rewards prefer the same pictures, as far as both give a key."""
    if not (isinstance(one, Mapping) and isinstance(other, Mapping)):
        return bool(one == other)
    if "name" not in one and one.keys() != other.keys():
        return False
    shared = (one.keys() & other.keys()) - _SAME_LIKING
    return one.get("name") == other.get("name") and all(_alike(one[k], other[k]) for k in shared)
