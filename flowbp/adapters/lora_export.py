"""Writing an adapter for diffusers' own pipelines."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from flowbp.adapters.extras import require
from flowbp.adapters.lora_files import configuration_of
from flowbp.adapters.lora_layers import adapter_layers
from flowbp.adapters.lora_source import WEIGHTS
from flowbp.adapters.lora_strength import multiplied
from flowbp.adapters.weights import add_to_header, read_header

TRAINED_SCALES = "flowbp_trained_scales"
"""Where a file's header has the scales that are in its B."""


def adapter_of(transformer: Any) -> str | None:
    """The name of a transformer's adapter, None where it has none.

    Args:
        transformer: a model of diffusers.

    Returns:
        The name.

    Raises:
        ValueError: it has several adapters, or trains something besides: no file holds both.

    Example:
        >>> adapter_of(nn.Linear(1, 1)) is None
        True
    """
    names: list[str] = list(getattr(transformer, "peft_config", None) or ())
    if not names:
        return None
    if len(names) > 1:
        raise ValueError(
            f"`transformer` must have one adapter at most, got {', '.join(names)}; merge the others"
        )
    besides = [
        name
        for name, parameter in transformer.named_parameters()
        if parameter.requires_grad and ".lora_" not in name
    ]
    if besides:
        raise ValueError(
            f"`transformer` has an adapter, but {len(besides)} other parameters require a gradient "
            f"too, the first being {besides[0]!r}; freeze them, or merge the adapter"
        )
    return names[0]


def save_lora(pipeline: Any, transformer: nn.Module, adapter: str, folder: Path) -> None:
    """Write an adapter so that ``pipe.load_lora_weights(folder)`` takes it, and nothing else.

    Its scale, alpha over rank, is multiplied into B and alpha is written as the rank, so that who
    reads the tensors alone applies what was trained. The product is rounded once, and exact where
    the scale is a power of two.

    Args:
        pipeline: the class of the model's pipeline.
        transformer: that the adapter is attached to.
        adapter: its name.
        folder: created where it is missing.

    Example:
        See `flowbp.adapters.Lora`; a backbone with an adapter does this in its ``save``.
    """
    peft: Any = require("peft", extra="lora")
    scales = {
        name: float(layer.scaling[adapter]) for name, layer in adapter_layers(transformer).items()
    }
    tensors = {
        name: _folded(name, each, scales).contiguous()
        for name, each in peft.get_peft_model_state_dict(transformer, adapter_name=adapter).items()
    }
    changed = {name: scale for name, scale in scales.items() if scale != 1}
    pipeline.save_lora_weights(
        folder,
        transformer_lora_layers=tensors,
        transformer_lora_adapter_metadata=configuration_of(tensors),
    )
    add_to_header(folder / WEIGHTS, {TRAINED_SCALES: json.dumps(changed)} if changed else {})


def trained_scales(file: Path) -> dict[str, float]:
    """What B A was multiplied with in training, by layer, where that was not 1.

    Whoever puts the parameters of training into an adapter that was read from its file needs it.

    Args:
        file: that `save_lora` wrote.

    Returns:
        Scales; nothing of a file of others.

    Raises:
        ValueError: the file is damaged.

    Example:
        See `flowbp.evaluate.models.applied`.
    """
    said = read_header(file).get(TRAINED_SCALES, "{}")
    try:
        return {str(name): float(scale) for name, scale in json.loads(said).items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{file} is damaged: `{TRAINED_SCALES}` in its header is no JSON object of numbers; "
            "copy it again"
        ) from error


def _folded(name: str, tensor: Tensor, scales: Mapping[str, float]) -> Tensor:
    layer, _, rest = name.rpartition(".lora_")
    return multiplied(tensor, scales[layer]) if rest.startswith("B.") else tensor
