"""The evaluation before training on disk, so that a run that goes on does not repeat it."""

from __future__ import annotations

import hashlib
from pathlib import Path

import attrs
from torch import Tensor

from flowbp.adapters.extras import require
from flowbp.configuration import DamagedError, read_sealed, sealed
from flowbp.evaluation import Evaluation
from flowbp.files import digests, write_whole

BEFORE, BEFORE_PICTURES = "before.json", "before.safetensors"
_CURE = f"remove {BEFORE} and {BEFORE_PICTURES}, and the evaluation before training is made again"


@attrs.frozen(kw_only=True)
class _Before(Evaluation):
    """What `before.json` holds: the evaluation, and the digest of its pictures' file."""

    pictures: str


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
    tree = attrs.asdict(evaluation) | {"pictures": hashlib.sha256(content).hexdigest()}
    # Last, because that it is there says that both are.
    write_whole(folder / BEFORE, sealed(tree))


def read_before(folder: Path) -> tuple[Evaluation, Tensor] | None:
    """Read what `write_before` wrote.

    Args:
        folder: of the run.

    Returns:
        The evaluation and its pictures, None if it was not finished.

    Raises:
        DamagedError: a file is missing or not as it was written.

    Example:
        See `write_before`.
    """
    text, tensors = folder / BEFORE, folder / BEFORE_PICTURES
    if not text.exists():
        return None
    found = read_sealed(_Before, text, cure=_CURE)
    try:
        same = digests(folder, [BEFORE_PICTURES])[BEFORE_PICTURES] == found.pictures
    except OSError as error:
        problem = f"cannot be read ({error.strerror or error})"
        raise DamagedError(tensors, problem, _CURE) from error
    if not same:
        raise DamagedError(tensors, "is damaged: it is not as it was written", _CURE)
    pictures = require("safetensors.torch").load(tensors.read_bytes())["pictures"]
    if len(pictures) != len(found.records):
        raise DamagedError(tensors, f"has {len(pictures)} pictures of {len(found.records)}", _CURE)
    own = {field.name: getattr(found, field.name) for field in attrs.fields(Evaluation)}
    return Evaluation(**own), pictures
