"""Writing a pipeline so that it says nothing of the machine it was written on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

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
