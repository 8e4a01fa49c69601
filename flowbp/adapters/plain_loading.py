"""How what a run saves is loaded into plain diffusers, in the words of Python."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch

from flowbp.adapters.extras import require
from flowbp.adapters.loading import dtype_option

_INDEX = "model_index.json"


@runtime_checkable
class WithLoading(Protocol):
    """A backbone that can tell how others load what it saves; a run prints it at its end.

    Without it a backbone works as well.

    Example:
        >>> from flowbp.shapes.embedded import embedded_backbone
        >>> isinstance(embedded_backbone(), WithLoading)
        True
    """

    def loading(self, folder: Path) -> str:
        """The lines that load what `save` wrote into `folder`."""
        ...


def loading_lines(
    kind: Any,
    folder: Path,
    *,
    dtype: torch.dtype,
    absent: Sequence[str],
    encoders: Sequence[str],
    base: str,
) -> str:
    """The lines of Python that load a saved pipeline, or a saved adapter with its base.

    The dtype is named wherever it is not float32: diffusers loads weights in float32 by default
    and transformers text encoders in the dtype that they were saved in, and such a pair fails in
    its first product.

    Args:
        kind: The pipeline's class.
        folder: That was written.
        dtype: To compute in.
        absent: Components that the model was trained without.
        encoders: The names of its text encoders. One that the folder does not have is shown as
            ``...``, for the reader to give.
        base: Where the model that an adapter belongs to was loaded from.

    Returns:
        One or two lines that assign ``pipeline``.

    Example:
        >>> from diffusers import FluxPipeline
        >>> folder = Path("runs/first/checkpoints/final")
        >>> said = dict(dtype=torch.float32, absent=(), encoders=(), base="black-forest-labs/FLUX")
        >>> print(loading_lines(FluxPipeline, folder, **said))
        pipeline = FluxPipeline.from_pretrained('black-forest-labs/FLUX')
        pipeline.load_lora_weights('runs/first/checkpoints/final')
    """
    whole = (folder / _INDEX).is_file()
    options = {name: "None" for name in absent}
    if whole:
        index = json.loads((folder / _INDEX).read_text(encoding="utf-8"))
        options |= {name: "..." for name in encoders if None in (index.get(name) or [None])}
    if dtype != torch.float32:
        options[dtype_option(require("diffusers").__version__)] = str(dtype)
    given = "".join(f", {name}={value}" for name, value in options.items())
    place = repr(str(folder)) if whole else repr(base) if base else "..."
    line = f"pipeline = {kind.__name__}.from_pretrained({place}{given})"
    return line if whole else f"{line}\npipeline.load_lora_weights({str(folder)!r})"
