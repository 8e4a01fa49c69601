"""Writing a pipeline so that it says nothing of the machine it was written on."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from flowbp.adapters.text_tower import TextTower

LEFT_OUT = "left_out.txt"
"""The only file of a component that could not be read again; it says why."""

_ORIGIN = "_name_or_path"


def save_pipeline(pipeline: Any, folder: Path) -> None:
    """Save a diffusers pipeline without the paths its components were loaded from.

    diffusers records the source of each component in its configuration, which would publish the
    user's folders and make equal models differ.

    Args:
        pipeline: A diffusers pipeline.
        folder: Created where it is missing.

    Example:
        >>> from pathlib import Path
        >>> from tempfile import TemporaryDirectory
        >>> from diffusers import DDIMPipeline, DDIMScheduler, UNet2DModel
        >>> unet = UNet2DModel(8, block_out_channels=(32,), down_block_types=("DownBlock2D",),
        ...                    up_block_types=("UpBlock2D",), layers_per_block=1)
        >>> with TemporaryDirectory() as folder:
        ...     save_pipeline(DDIMPipeline(unet, DDIMScheduler()), Path(folder))
        ...     (Path(folder) / "unet" / "config.json").is_file()
        True
    """
    pipeline.save_pretrained(folder)
    for path in (folder / "model_index.json", *sorted(folder.glob("*/config.json"))):
        content = json.loads(path.read_text(encoding="utf-8"))
        if _ORIGIN in content:
            del content[_ORIGIN]
            path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def save_with_encoders(
    kind: Any, parts: Mapping[str, Any], towers: Mapping[str, TextTower], folder: Path
) -> None:
    """Save a pipeline whose text encoders may have left memory; what cannot be read is left out.

    What was trained must not be lost for a frozen encoder that has a copy elsewhere.

    Args:
        kind: The pipeline's class.
        parts: Its components but for the text encoders and tokenizers.
        towers: Those, by the encoder's name in the pipeline.
        folder: Created where it is missing. The folder of an encoder that is left out holds
            `LEFT_OUT`, and its tokenizer is there.

    Warns:
        UserWarning: An encoder is left out.

    Example:
        See `DiffusersBackbone.save`.
    """
    encoders, reasons = _read_again(kind, towers)
    # In all of diffusers the tokenizer of text_encoder_2 is tokenizer_2.
    tokenizers = {
        each.replace("text_encoder", "tokenizer"): tower.tokenizer for each, tower in towers.items()
    }
    save_pipeline(kind(**encoders, **tokenizers, **parts), folder)
    for name, reason in reasons.items():
        (folder / name).mkdir()
        (folder / name / LEFT_OUT).write_text(reason + "\n", encoding="utf-8")
        warnings.warn(reason, stacklevel=2)


def _read_again(
    kind: Any, towers: Mapping[str, TextTower]
) -> tuple[dict[str, Any], dict[str, str]]:
    encoders: dict[str, Any] = {}
    failures: dict[str, Exception] = {}
    for name, tower in towers.items():
        try:
            encoders[name] = tower.held.for_saving()
        except Exception as error:
            # Whatever it is, even a lack of memory, it comes after hours of training that the
            # checkpoint is to keep; the warning has it.
            encoders[name], failures[name] = None, error
    given = ", ".join(f"{name}=..." for name in failures)
    return encoders, {
        name: f"the frozen component {name} could not be read again from "
        f"{towers[name].held.origin!r} ({type(error).__name__}: {error}), so that the saved "
        "pipeline is without it; what was trained is saved. Load it with an encoder from a copy "
        f"of that model: {kind.__name__}.from_pretrained(folder, {given}), or put the source back "
        "and the next checkpoint is whole"
        for name, error in failures.items()
    }
