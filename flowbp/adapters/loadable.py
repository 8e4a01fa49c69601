"""Taking up in place what a backbone has saved."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import nn

from flowbp.adapters.layout import Layout, check_files
from flowbp.adapters.loading import empty_model, load_model
from flowbp.adapters.source import check_pipeline, pipeline_index


@runtime_checkable
class Loadable(Protocol):
    """What a backbone has besides the protocol of all, to be evaluated from its checkpoints.

    Example:
        >>> from flowbp.shapes.embedded import embedded_backbone
        >>> isinstance(embedded_backbone(), Loadable)
        True
    """

    def load(self, folder: Path) -> None:
        """Take the weights that ``save`` wrote into `folder`, in place of the present ones."""
        ...


def load_transformer(
    folder: Path, layout: Layout, transformer: nn.Module, dtype: torch.dtype
) -> None:
    """Copy the transformer of a saved pipeline into one of the same model.

    Args:
        folder: in diffusers layout.
        layout: of the family.
        transformer: that receives the weights, wherever it is.
        dtype: that the weights are read in.

    Raises:
        FileNotFoundError: the transformer is missing.
        ValueError: the folder is of another family or of a model of another shape, or damaged.

    Example:
        See `DiffusersBackbone.load`.
    """
    check_transformer(folder, layout, transformer)
    saved = load_model(folder, layout, "transformer", dtype)
    transformer.load_state_dict(saved.state_dict())


def check_transformer(folder: Path, layout: Layout, transformer: nn.Module) -> None:
    """Refuse a saved pipeline of another model, before its weights are read.

    Args:
        folder: in diffusers layout.
        layout: of the family.
        transformer: that would receive the weights.

    Raises:
        FileNotFoundError: the transformer is missing.
        ValueError: the folder is of another family or of a model of another shape, or damaged.

    Example:
        See `DiffusersBackbone.load`.
    """
    index = pipeline_index(folder, from_hub=_no_hub)
    check_pipeline(folder, index, pipeline=layout.pipeline, components=["transformer"])
    check_files(folder, layout, "transformer")
    saved = empty_model(folder, layout, "transformer", torch.float32).state_dict()
    mine = transformer.state_dict()
    other = [
        name
        for name in sorted(saved.keys() | mine.keys())
        if name not in saved or name not in mine or saved[name].shape != mine[name].shape
    ]
    if other:
        raise ValueError(
            f"`checkpoint` {str(folder)!r} is of another model than the backbone: {len(other)} "
            f"parameters differ in name or shape, the first being {other[0]!r}"
        )


def _no_hub(name: str) -> Any:
    raise FileNotFoundError(f"`checkpoint` must be a folder, got {name!r}; there is none")
