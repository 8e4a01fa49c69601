"""A save and a load of what is trained, before the first step: hours later it must not fail."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from flowbp.adapters import Backbone, Loadable
from flowbp.adapters.extras import require
from flowbp.components import calling, during, is_ours, wrong
from flowbp.disk import saving
from flowbp.settings import REHEARSAL
from flowbp.training import OptimizerRecipe
from flowbp.training.packing import pack, unpack


def rehearse_saving(backbone: Backbone, folder: Path) -> None:
    """Save a backbone, read back what was saved, and compare it with what is trained.

    The library's own write safetensors, which are read one by one. One of others is loaded by its
    own `load`, where it has one; its parameters are put back to what they were.

    Args:
        backbone: tuned.
        folder: of the run.

    Raises:
        ComponentError: the backbone raised something, wrote nothing, or reads something else back.
        SavingError: the disk refuses the files.
        OSError: the files cannot be written.

    Example:
        See `flowbp.run.execution.execute`.
    """
    with during("a try of saving before the run"), _place(folder) as place:
        if is_ours(backbone):
            with saving(place, "and no run was begun"):
                backbone.save(place)
            _compare_files(backbone, place)
            return
        with calling("backbone", backbone):
            backbone.save(place)
        if not any(path.is_file() and path.stat().st_size for path in place.rglob("*")):
            raise wrong("backbone", backbone, "must write files in `save`, and wrote none")
        if isinstance(backbone, Loadable):
            _compare_loaded(backbone, place)


def rehearse_optimizer(recipe: OptimizerRecipe, parameters: Mapping[str, nn.Parameter]) -> None:
    """Take a step on a copy of the smallest parameter, and save and load the optimizer's state.

    Args:
        recipe: builds the optimizer.
        parameters: that are trained.

    Raises:
        ComponentError: the optimizer raised something, or has a state that cannot be saved.

    Example:
        >>> from flowbp.training import AdamW
        >>> rehearse_optimizer(AdamW(), {"weight": nn.Parameter(torch.zeros(2))})
    """
    smallest = min(parameters.values(), key=lambda parameter: parameter.numel())
    copy = nn.Parameter(smallest.detach().clone())
    with during("a try of the optimizer before the run"), calling("optimizer", recipe):
        optimizer = recipe.build([copy])
        if not isinstance(optimizer, torch.optim.Optimizer):
            # What trains says so.
            return
        copy.grad = torch.zeros_like(copy)
        optimizer.step()
        tensors: dict[str, Tensor] = {}
        packed = pack(optimizer.state_dict(), "state", tensors)
        recipe.build([copy]).load_state_dict(unpack(packed, tensors))


@contextmanager
def _place(folder: Path) -> Iterator[Path]:
    place = folder / REHEARSAL
    # A process before this one may have been killed here.
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    try:
        yield place
    finally:
        shutil.rmtree(place)


def _compare_files(backbone: Backbone, place: Path) -> None:
    parameters, module = dict(backbone.trainable()), backbone.module
    scales = {
        f"{name}.lora_B": layer.scaling
        for name, layer in module.named_modules()
        if isinstance(getattr(layer, "scaling", None), Mapping)
    }
    # A whole pipeline has its transformer in a folder; an adapter's file lies there alone.
    for path in sorted((*place.glob("*.safetensors"), *place.glob("transformer/*.safetensors"))):
        with require("safetensors").safe_open(path, "pt") as file:
            for key in file.keys():  # noqa: SIM118 (it is no mapping)
                name = _trained_name(key, parameters)
                if name is None:
                    continue
                parameter = parameters.pop(name).detach()
                scaled = [s for layer, s in scales.items() if name.startswith(layer)]
                factors = {factor for each in scaled for factor in each.values()}
                if not _same(file.get_tensor(key), parameter, factors):
                    raise wrong("backbone", backbone, f"saved other values of `{name}` than it has")
    if parameters:
        name = next(iter(parameters))
        problem = f"saved without {len(parameters)} of its trained parameters, such as `{name}`"
        raise wrong("backbone", backbone, problem)


def _trained_name(key: str, parameters: Mapping[str, Any]) -> str | None:
    # An adapter's tensors are under the transformer's name and without the adapter's.
    plain = key.removeprefix("transformer.")
    layer, found, rest = plain.partition(".lora_")
    side, _, weight = rest.partition(".")
    names = [key, f"{layer}.lora_{side}.default.{weight}"] if found else [key]
    return next((name for name in names if name in parameters), None)


def _same(saved: Tensor, parameter: Tensor, factors: set[Any]) -> bool:
    trained = parameter.to("cpu")
    if saved.shape != trained.shape:
        return False
    # The scale of an adapter may have been folded into what is saved.
    return any(torch.equal(saved, (trained * f).to(saved.dtype)) for f in {1.0, *factors})


def _compare_loaded(backbone: Any, place: Path) -> None:
    parameters = backbone.trainable()
    before = {name: each.detach().to("cpu", copy=True) for name, each in parameters.items()}
    with calling("backbone", backbone):
        backbone.load(place)
    now = backbone.trainable()
    if now.keys() != before.keys():
        problem = "has other trained parameters after `load` of what `save` wrote"
        raise wrong("backbone", backbone, problem)
    changed = [n for n, was in before.items() if not torch.equal(now[n].detach().to("cpu"), was)]
    if changed:
        with torch.no_grad():
            for name, was in before.items():
                now[name].copy_(was)
        problem = (
            f"has other values after `load` of what `save` wrote, in {len(changed)} of "
            f"{len(before)} trained parameters, the first being `{changed[0]}`"
        )
        raise wrong("backbone", backbone, problem)
