"""The pictures of an evaluation as files: what there is, whole and of this evaluation."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType

import attrs
from torch import Tensor

from flowbp.evaluation import HeldOut, labelled_png, read_png
from flowbp.files import write_whole

IMAGES = "images"

ORIGIN = "origin"
"""The fact that says what evaluation a picture is of."""

NO_FACTS: Mapping[str, str] = MappingProxyType({})
"""Nothing is known of how a picture was sampled."""


class ForeignPictureError(ValueError):
    """A picture in the folder is of another evaluation."""


@attrs.frozen
class Shot:
    """One picture that an evaluation makes.

    Args:
        model: label of the model.
        number: the prompt's place in the list.
        seed: of the noise.
        prompt: with its kind.

    Example:
        >>> from flowbp.evaluation import HeldOutPrompt
        >>> Shot("base", 3, 0, HeldOutPrompt("a circle")).name
        '00003-0.png'
    """

    model: str
    number: int
    seed: int
    # Not compared: a prompt of a source of one's own need not be hashable.
    prompt: HeldOut = attrs.field(eq=False)

    @property
    def name(self) -> str:
        """The name of its file."""
        return f"{self.number:05}-{self.seed}.png"

    def path(self, folder: Path) -> Path:
        """Its file in the folder of an evaluation."""
        return folder / IMAGES / self.model / self.name

    @property
    def texts(self) -> dict[str, str]:
        """What the file says of it."""
        return {
            "prompt": self.prompt.text,
            "kind": self.prompt.kind,
            "number": str(self.number),
            "seed": str(self.seed),
            "model": self.model,
        }


def write_picture(
    folder: Path, shot: Shot, image: Tensor, facts: Mapping[str, str] = NO_FACTS
) -> None:
    """Write a picture, whole or not at all.

    Args:
        folder: of the evaluation.
        shot: which picture it is.
        image: (3, H, W) in [0, 1].
        facts: how it was sampled, to be written into the file too.

    Raises:
        OSError: the file cannot be written.
        ValueError: pixels are not finite.

    Example:
        See `read_picture`.
    """
    write_whole(shot.path(folder), labelled_png(image, {**facts, **shot.texts}))


def read_picture(folder: Path, shot: Shot, origin: str | None = None) -> Tensor | None:
    """Read a picture if it is there and whole.

    Args:
        folder: of the evaluation.
        shot: which picture it is.
        origin: that it has among its facts.

    Returns:
        The picture (3, H, W) in [0, 1]; None if it is missing or damaged.

    Raises:
        ForeignPictureError: the file is of another prompt, seed, model or origin.

    Example:
        >>> from tempfile import mkdtemp
        >>> import torch
        >>> from flowbp.evaluation import HeldOutPrompt
        >>> folder, shot = Path(mkdtemp()), Shot("base", 3, 0, HeldOutPrompt("a circle"))
        >>> read_picture(folder, shot) is None
        True
        >>> write_picture(folder, shot, torch.ones(3, 8, 8))
        >>> read_picture(folder, shot).shape
        torch.Size([3, 8, 8])
    """
    path = shot.path(folder)
    if not path.is_file():
        return None
    try:
        image, texts = read_png(path.read_bytes())
    except ValueError:
        # Made again from the same noise, which is all that can be asked of a damaged file.
        return None
    wanted_texts = shot.texts | ({} if origin is None else {ORIGIN: origin})
    for key, wanted in wanted_texts.items():
        if texts.get(key) != wanted:
            raise ForeignPictureError(
                f"{path} has the {key} {texts.get(key)!r} and not {wanted!r}: it is of another "
                "evaluation; name another evaluation.folder"
            )
    return image
