"""Writing an adapter for diffusers' own pipelines."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import nn

from flowbp.adapters.extras import require
from flowbp.adapters.lora_files import COMPUTED, targets_of


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

    Args:
        pipeline: the class of the model's pipeline.
        transformer: that the adapter is attached to.
        adapter: its name.
        folder: created where it is missing.

    Example:
        See `flowbp.adapters.Lora`; a backbone with an adapter does this in its ``save``.
    """
    peft: Any = require("peft", extra="lora")
    tensors = peft.get_peft_model_state_dict(transformer, adapter_name=adapter)
    config = transformer.peft_config[adapter].to_dict()  # type: ignore[index, union-attr]
    metadata = {name: config[name] for name in COMPUTED} | targets_of(tensors)
    pipeline.save_lora_weights(
        folder,
        transformer_lora_layers={name: each.contiguous() for name, each in tensors.items()},
        transformer_lora_adapter_metadata=metadata,
    )
