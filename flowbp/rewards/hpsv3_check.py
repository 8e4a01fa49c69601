"""Whether files are HPSv3's, by their headers alone."""

from __future__ import annotations

import os

import torch
from torch import Tensor

from flowbp.rewards.hpsv3_model import FILE, QWEN2_VL_7B, QwenSizes, build_model, rename
from flowbp.rewards.shards import check_shards
from flowbp.rewards.weight_files import check_layout, read_shapes


def check_hpsv3(source: str | os.PathLike[str], *, sizes: QwenSizes = QWEN2_VL_7B) -> None:
    """Refuse files that loading HPSv3 would refuse; only their headers are read.

    Args:
        source: The file, a folder or a hub id with it or with an index of several; of a hub id that
            the cache lacks, the hub is asked.
        sizes: of the towers in it.

    Raises:
        ModuleNotFoundError: transformers is not installed.
        FileNotFoundError: No such file, or the hub does not give it.
        ValueError: A file that was cut off, or is another one; with the first key that differs.

    Example:
        >>> from flowbp.shapes.embedded import reward_folder
        >>> check_hpsv3(reward_folder())  # doctest: +ELLIPSIS
        Traceback (most recent call last):
            ...
        ValueError: ... does not hold HPSv3: it lacks ...; name the file of this very model
    """
    paths = check_shards(source, name=FILE)
    if not paths:
        return
    weights: dict[str, Tensor] = {}
    for path in paths:
        found = read_shapes(path)
        weights |= {new: found[key] for key in found if (new := rename(key)) is not None}
    with torch.device("meta"):
        model = build_model(sizes)
    layout = {key: tuple(tensor.shape) for key, tensor in model.state_dict().items()}
    place = paths[0] if len(paths) == 1 else paths[0].parent
    check_layout(weights, layout, path=place, what="HPSv3")
