"""How what a run saves is loaded and sampled in plain diffusers, as lines of Python."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from flowbp.adapters.pipeline_files import dtype_option
from flowbp.adapters.pipeline_source import PipelineSource
from flowbp.adapters.sigmas import even_levels
from flowbp.extras import require

_INDEX = "model_index.json"


def loading_lines(
    kind: Any,
    folder: Path,
    *,
    dtype: torch.dtype,
    absent: Sequence[str],
    encoders: Sequence[str],
    base: PipelineSource | None,
    transformer: str,
) -> str:
    """The lines of Python that load a saved pipeline, or a saved adapter with its `base`.

    The dtype is named wherever it is not float32: diffusers loads weights in float32 by default and
    transformers text encoders in the dtype that they were saved in, and such a pair fails in its
    first product. Components that are `absent` are None; an encoder that the folder lacks is shown
    as ``...``, for the reader to give. `transformer` is the class of a base's single file.
    """
    whole = (folder / _INDEX).is_file()
    options = {name: "None" for name in absent}
    if whole:
        index = json.loads((folder / _INDEX).read_text(encoding="utf-8"))
        options |= {name: "..." for name in encoders if None in (index.get(name) or [None])}
    dtypes = {}
    if dtype != torch.float32:
        dtypes[dtype_option(require("diffusers").__version__)] = str(dtype)
    before, imported = "", kind.__name__
    if not whole and base is not None:
        options |= {name: repr(value) for name, value in base.options.items()}
        if base.transformer is not None:
            options["transformer"] = "transformer"
            before = _single_file_line(base, transformer, dtypes)
            imported = f"{imported}, {transformer}"
    options |= dtypes
    given = "".join(f", {name}={value}" for name, value in options.items())
    place = repr(str(folder)) if whole else "..." if base is None else repr(str(base))
    imports = f"from diffusers import {imported}"
    if dtype != torch.float32:
        imports = f"import torch\n{imports}"
    line = f"{imports}\n{before}pipeline = {kind.__name__}.from_pretrained({place}{given})"
    return line if whole else f"{line}\npipeline.load_lora_weights({str(folder)!r})"


def _single_file_line(base: PipelineSource, kind: str, dtypes: Mapping[str, str]) -> str:
    given = {"config": repr(str(base)), "subfolder": "'transformer'"}
    if base.revision is not None:
        given["config_revision"] = repr(base.revision)
    options = "".join(f"    {name}={value},\n" for name, value in (given | dict(dtypes)).items())
    return f"transformer = {kind}.from_single_file(\n    {str(base.transformer)!r},\n{options})\n"


_UNSHIFTED = {
    "shift": 1.0,
    "use_dynamic_shifting": False,
    "shift_terminal": None,
    "use_karras_sigmas": False,
    "use_exponential_sigmas": False,
    "use_beta_sigmas": False,
}
"""A scheduler that takes the sigmas that it is given as they are."""

_WIDTH = 90


def sampling_lines(
    backbone: Any, sigmas: Tensor, options: Mapping[str, Any], *, height: int, width: int
) -> str:
    """The lines of Python that sample on `sigmas` (N+1,) with a family's ``pipeline``.

    Sigmas are named only where they are not the pipeline's own, as even levels where its scheduler
    shifts these to them, and else one by one, for a scheduler that does not shift.
    """
    steps, size = len(sigmas) - 1, {"height": height, "width": width}
    before, named = "", {}
    if not _alike(sigmas, backbone.sigmas(steps, **size)):
        named["sigmas"] = f"[1 - i / {steps} for i in range({steps})]"
        if not _alike(sigmas, backbone.shifted(even_levels(steps), **size)):
            named["sigmas"] = repr([round(level, 7) for level in sigmas[:-1].tolist()])
            before = _scheduler_line(backbone.scheduler.config)
    words = {name: repr(value) for name, value in {**size, **options}.items()}
    given = {"num_inference_steps": str(steps)} | named | words
    arguments = ["prompt='a prompt'", *(f"{name}={value}" for name, value in given.items())]
    line = f"images = pipeline({', '.join(arguments)}).images"
    if len(line) > _WIDTH:
        listed = "".join(f"    {argument},\n" for argument in arguments)
        line = f"images = pipeline(\n{listed}).images"
    return before + line


def _alike(sigmas: Tensor, others: Tensor) -> bool:
    return torch.allclose(sigmas, others, rtol=0, atol=1e-6)


def _scheduler_line(config: Mapping[str, Any]) -> str:
    # Schedulers of older versions of diffusers lack some of them.
    changed = {
        name: value for name, value in _UNSHIFTED.items() if config.get(name, value) != value
    }
    if not changed:
        return ""
    given = "".join(f"    {name}={value!r},\n" for name, value in changed.items())
    return (
        "pipeline.scheduler = pipeline.scheduler.from_config(\n"
        f"    pipeline.scheduler.config,\n{given})\n"
    )
