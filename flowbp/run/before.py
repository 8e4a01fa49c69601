"""The evaluation before training on disk, so that a run that goes on does not repeat it."""

from __future__ import annotations

from pathlib import Path

from torch import Tensor

from flowbp.adapters.extras import require
from flowbp.evaluation import Evaluation, evaluation_from_json, evaluation_to_json
from flowbp.files import write_whole

BEFORE, BEFORE_PICTURES = "before.json", "before.safetensors"


def write_before(folder: Path, evaluation: Evaluation, pictures: Tensor) -> None:
    """Write `before.json` and, as they are in float32, its pictures to `before.safetensors`.

    A picture takes 12 H W bytes; fewer bits would make the report of a run that went on differ.

    Args:
        folder: of the run.
        evaluation: the one before training; the keys are those of `before` in `comparison.json`.
        pictures: (n, 3, H, W), one for each record.

    Raises:
        OSError: a file cannot be written.

    Example:
        >>> from tempfile import mkdtemp
        >>> import torch
        >>> from flowbp.evaluation import Record
        >>> record = Record(index=0, prompt="a circle", kind="single_object", reward=0.25)
        >>> evaluation = Evaluation(label="before", noise_seed=0, seconds=1, records=[record])
        >>> folder = Path(mkdtemp())
        >>> write_before(folder, evaluation, torch.zeros(1, 3, 4, 4))
        >>> again, pictures = read_before(folder)
        >>> again == evaluation, pictures.shape
        (True, torch.Size([1, 3, 4, 4]))
    """
    content = require("safetensors.torch").save({"pictures": pictures.contiguous()})
    write_whole(folder / BEFORE_PICTURES, content)
    # Last, because that it is there says that both are.
    write_whole(folder / BEFORE, evaluation_to_json(evaluation) + "\n")


def read_before(folder: Path) -> tuple[Evaluation, Tensor] | None:
    """Read what `write_before` wrote.

    Args:
        folder: of the run.

    Returns:
        The evaluation and its pictures, None if it was not finished.

    Raises:
        ValueError: a file is damaged or missing.

    Example:
        See `write_before`.
    """
    text, tensors = folder / BEFORE, folder / BEFORE_PICTURES
    if not text.exists():
        return None
    try:
        evaluation = evaluation_from_json(text.read_text(encoding="utf-8"))
        pictures = require("safetensors.torch").load(tensors.read_bytes())["pictures"]
    except (ValueError, KeyError, OSError, require("safetensors").SafetensorError) as error:
        raise ValueError(
            f"{text} and {tensors.name} beside it cannot be read ({type(error).__name__}: {error});"
            " remove both, and the evaluation before training is made again"
        ) from error
    if len(pictures) != len(evaluation.records):
        raise ValueError(
            f"{tensors} has {len(pictures)} pictures and {text.name} {len(evaluation.records)} "
            "records; remove both, and the evaluation before training is made again"
        )
    return evaluation, pictures
