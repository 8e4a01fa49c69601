"""Where a run's prompts come from: the embedded world, or a text file."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol

import attrs
import torch

from flowbp.core._validators import integer
from flowbp.evaluation import HeldOut, HeldOutPrompt
from flowbp.shapes import PROMPT_KINDS, heldout_prompts, training_prompts
from flowbp.training import PromptList


class HeldOutSource(Protocol):
    """A fixed list of prompts for evaluation."""

    def prompts(self) -> tuple[HeldOut, ...]:
        """The prompts, always the same ones in the same order."""
        ...


def read_prompts(path: Path) -> tuple[str, ...]:
    """Read a text file of one prompt a line; blank lines are skipped.

    Args:
        path: of the file, UTF-8.

    Returns:
        The prompts without the white space around them.

    Raises:
        ValueError: the file cannot be read, is not UTF-8 or holds no prompt.

    Example:
        >>> read_prompts(Path("absent.txt"))
        Traceback (most recent call last):
        ValueError: `path` must be a text file of one prompt a line, got 'absent.txt', which \
cannot be read (No such file or directory); check the path
    """
    refusal = f"`path` must be a text file of one prompt a line, got {str(path)!r}, which"
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        reason = f"cannot be read ({error.strerror}); check the path"
        raise ValueError(f"{refusal} {reason}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{refusal} is not UTF-8; save it as UTF-8") from error
    found = tuple(line.strip() for line in lines if line.strip())
    if not found:
        raise ValueError(f"{refusal} holds none; write at least one")
    return found


@attrs.frozen
class TextPrompts:
    """The prompts of a text file, gone through again and again, shuffled anew each time.

    Args:
        path: one prompt a line; a relative path starts from the working folder.

    Raises:
        ValueError: as `read_prompts`.

    Example:
        >>> from tempfile import mkdtemp
        >>> path = Path(mkdtemp()) / "prompts.txt"
        >>> path.write_text("a circle")
        8
        >>> len(TextPrompts(path))
        1
    """

    path: Path
    _list: PromptList = attrs.field(init=False, eq=False, repr=False)

    @_list.default
    def _read(self) -> PromptList:
        return PromptList(read_prompts(self.path))

    def __len__(self) -> int:
        return len(self._list.texts)

    def stream(self, generator: torch.Generator) -> Iterator[str]:
        """Prompts without end: each epoch is a new permutation of the file."""
        return self._list.stream(generator)


@attrs.frozen
class TextHeldOut:
    """The prompts of a text file, counted as one kind.

    Args:
        path: one prompt a line; a relative path starts from the working folder.

    Raises:
        ValueError: as `read_prompts`.

    Example:
        >>> from tempfile import mkdtemp
        >>> path = Path(mkdtemp()) / "prompts.txt"
        >>> path.write_text("a circle")
        8
        >>> TextHeldOut(path).prompts()
        (HeldOutPrompt(text='a circle', kind='prompts'),)
    """

    path: Path
    _prompts: tuple[HeldOutPrompt, ...] = attrs.field(init=False, eq=False, repr=False)

    @_prompts.default
    def _read(self) -> tuple[HeldOutPrompt, ...]:
        return tuple(map(HeldOutPrompt, read_prompts(self.path)))

    def prompts(self) -> tuple[HeldOut, ...]:
        """The prompts in the order of the file."""
        return self._prompts


@attrs.frozen
class ShapesPrompts:
    """The training captions of the embedded world, the six kinds in equal parts.

    Each round yields one caption of every kind, the kinds in random order. Within a kind the
    captions are gone through as in `PromptList`. Drawn evenly over all captions instead, 7 of 10
    would be about positions.

    Example:
        >>> from itertools import islice
        >>> stream = ShapesPrompts().stream(torch.Generator().manual_seed(0))
        >>> len(set(islice(stream, 12)))
        12
    """

    def __len__(self) -> int:
        return len(training_prompts())

    def stream(self, generator: torch.Generator) -> Iterator[str]:
        """Captions without end, in an order that `generator` alone decides."""
        kinds = [
            PromptList(prompt.text for prompt in training_prompts() if prompt.kind == kind)
            for kind in PROMPT_KINDS
        ]
        streams = [texts.stream(generator) for texts in kinds]
        while True:
            for index in torch.randperm(len(streams), generator=generator).tolist():
                yield next(streams[index])


@attrs.frozen
class ShapesHeldOut:
    """Held-out captions of the embedded world, spread evenly over the six kinds.

    The kinds take turns. Within a kind the captions are evenly spaced over the list; a kind that
    has fewer than its share starts again, and a caption that comes again has another noise.

    Args:
        count: how many.

    Raises:
        ValueError: `count` is below 1.

    Example:
        >>> [prompt.kind for prompt in ShapesHeldOut(7).prompts()].count("single_object")
        2
    """

    count: int = attrs.field(default=192, validator=integer(1))

    def prompts(self) -> tuple[HeldOut, ...]:
        """The captions, the kinds taking turns."""
        kinds = [
            _even([prompt for prompt in heldout_prompts() if prompt.kind == kind], share)
            for kind, share in zip(PROMPT_KINDS, self._shares(), strict=True)
        ]
        turns = len(PROMPT_KINDS)
        return tuple(kinds[i % turns][i // turns] for i in range(self.count))

    def _shares(self) -> list[int]:
        whole, rest = divmod(self.count, len(PROMPT_KINDS))
        return [whole + (place < rest) for place in range(len(PROMPT_KINDS))]


def _even(prompts: Sequence[HeldOut], share: int) -> list[HeldOut]:
    if share > len(prompts):
        return [prompts[i % len(prompts)] for i in range(share)]
    return [prompts[i * len(prompts) // share] for i in range(share)]
