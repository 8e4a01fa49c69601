"""An adapter's tensors in another program's layout of names, read by diffusers' converters."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

_SPELLINGS = (("lora_A", "lora_B"), ("lora_down", "lora_up"), ("lora.down", "lora.up"))
"""How programs write the two factors; a pipeline's converter may know one of them only."""

_FACTOR = re.compile(
    r"(?P<layer>.+)\.((?P<down>lora_A|lora_down|lora\.down)|lora_B|lora_up|lora\.up)"
    r"(\.default)?\.(?P<kind>weight|bias)"
)

OWN_FACTOR = re.compile(r"(?P<layer>.+)\.lora_(?P<side>[AB])\.(weight|bias)")
"""A factor by the name that it has here."""

_CURE = (
    "take another file, or bring it into a layout that is read; the documentation lists those of "
    'diffusers 0.42 under "Layouts of LoRA files"'
)


def converted(
    tensors: Mapping[str, Tensor], pipeline: Any, linears: Collection[str], start: str
) -> dict[str, Tensor]:
    """Bring an adapter at full strength under the names of a transformer's linear layers.

    The spelling of the factors is the first that diffusers reads whole; where there is none, what
    stands in the way is reported.
    """
    problems = []
    for spelt in _spelt(tensors):
        problem = _problem(spelt, pipeline, linears)
        if problem is None:
            return _own_names(_read(spelt, pipeline), pipeline)
        problems.append(problem)
    _, message = min(problems, key=lambda problem: problem[0])
    raise ValueError(f"`start` {start!r} {message}")


def _spelt(tensors: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """The tensors as they are, then with the factors in the other spellings."""
    yield dict(tensors)
    for down, up in _SPELLINGS:
        spelt = {}
        for name, tensor in tensors.items():
            if found := _FACTOR.fullmatch(name):
                name = f"{found['layer']}.{down if found['down'] else up}.{found['kind']}"
            spelt[name] = tensor
        # A file may hold a factor in two spellings, and neither may take the other's place.
        if spelt.keys() != tensors.keys() and len(spelt) == len(tensors):
            yield spelt


def _read(tensors: Mapping[str, Tensor], pipeline: Any) -> dict[str, Tensor]:
    given = dict(tensors)
    # An alpha is the rank by now, and not all converters take one beside this spelling.
    if any(".lora_A." in name for name in given):
        given = {name: each for name, each in given.items() if not name.endswith(".alpha")}
    read: dict[str, Tensor] = pipeline.lora_state_dict(given, use_safetensors=True)
    return read


def _own_names(names: Mapping[str, Tensor], pipeline: Any) -> dict[str, Tensor]:
    # What has no name of a component in front is of the transformer too.
    prefix = f"{pipeline.transformer_name}."
    return {name.removeprefix(prefix): tensor for name, tensor in names.items()}


def _problem(
    tensors: Mapping[str, Tensor], pipeline: Any, linears: Collection[str]
) -> tuple[int, str] | None:
    """What keeps a pipeline from reading all tensors: how many they are, and a message."""
    # Converters leave out, copy and split: a number in the place of a tensor shows where it ends.
    numbers = {name: number for number, name in enumerate(sorted(tensors), start=1)}
    factors = [name for name in numbers if not name.endswith(".alpha")]
    try:
        read = _read({n: _marked(n, each, numbers[n]) for n, each in tensors.items()}, pipeline)
    # They raise whatever they like.
    except Exception as error:
        reason = f"{type(error).__name__}: {' '.join(str(error).split())}"
        return len(factors), (
            f"could not be read as a LoRA of {pipeline.__name__}, diffusers' converter raises "
            f"{reason:.400}; {_CURE}"
        )
    found = {number for tensor in read.values() for number in torch.unique(tensor).tolist()}
    lost = [name for name in factors if numbers[name] not in found and tensors[name].double().any()]
    if lost:
        return len(lost), (
            f"holds {lost[0]!r}, which diffusers' converter for {pipeline.__name__} leaves out; "
            f"so it does {len(lost)} of {len(factors)} tensors; {_CURE}"
        )
    foreign = sorted(
        name
        for name in _own_names(read, pipeline)
        if (match := OWN_FACTOR.fullmatch(name)) is None or match["layer"] not in linears
    )
    if not foreign:
        return None
    if foreign[0].startswith("text_encoder"):
        return len(foreign), (
            f"must be a LoRA of the {pipeline.transformer_name} alone, but {foreign[0]!r} is of a "
            f"text encoder, which is not trained here; so are {len(foreign)} of its {len(read)} "
            "tensors; leave them out of the file"
        )
    return len(foreign), (
        f"holds {foreign[0]!r}, which has no place in the {pipeline.transformer_name} of a "
        f"{pipeline.__name__}; that holds of {len(foreign)} of its {len(read)} tensors, which are "
        f"of another model, of no plain LoRA, or in a layout that diffusers does not read; {_CURE}"
    )


def _marked(name: str, tensor: Tensor, number: int) -> Tensor:
    """A tensor that is `number` everywhere, of rank 1 if it is a factor."""
    if name.endswith(".alpha"):
        return torch.tensor(1.0)
    shape = list(tensor.shape)
    if (found := _FACTOR.fullmatch(name)) and len(shape) > 1:
        shape[0 if found["down"] else 1] = 1
    return torch.full(shape, float(number))
