"""The stages of a step, and how each shrinks where memory is short."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import attrs
import torch

from flowbp.short_memory import is_short_memory
from flowbp.training.sizes import Portions

Lowering = Callable[[Portions, int], Portions | None]
"""Smaller portions after so many samples did not fit at once; None where there are none."""


def halved(name: str) -> Lowering:
    """A lowering that halves one of the sizes.

    Args:
        name: of it.

    Returns:
        The lowering.

    Example:
        >>> whole = Portions(samples=8, pull=8, decode=8)
        >>> print(halved("pull")(whole, 5))
        pull 2, decode 8
    """

    def lowered(portions: Portions, count: int) -> Portions | None:
        # A size beyond the batch is the batch's; to halve that alone would change nothing.
        size = min(getattr(portions, name), count)
        return attrs.evolve(portions, **{name: size // 2}) if size > 1 else None

    return lowered


def checkpointed(portions: Portions, count: int) -> Portions | None:
    """A lowering that switches gradient checkpointing on, where it can be and is not yet.

    Args:
        portions: the present ones.
        count: as in `Lowering`; any number.

    Returns:
        The portions with checkpointing, or None.

    Example:
        >>> print(checkpointed(Portions(samples=1, pull=1, decode=1), 1))
        None
    """
    able = portions.checkpointing is False
    return attrs.evolve(portions, checkpointing=True) if able else None


@attrs.frozen
class Stage:
    """A part of a step that may run out of memory.

    Args:
        doing: what it does, for a message.
        lowerings: that make it smaller, tried in this order; none if no portion does.
        cure: what else helps.

    Example:
        >>> SWEEP.lowered(Portions(samples=8, pull=1, decode=8, checkpointing=False), 8).pull
        1
    """

    doing: str
    lowerings: tuple[Lowering, ...]
    cure: str

    def lowered(self, portions: Portions, count: int) -> Portions | None:
        """The next smaller portions.

        Args:
            portions: the present ones.
            count: samples that the stage had to work on.

        Returns:
            The first that one of the lowerings gives; None if the stage is as small as it gets.
        """
        each = (lower(portions, count) for lower in self.lowerings)
        return next((smaller for smaller in each if smaller is not None), None)


_CURE = "smaller `height` and `width`, bfloat16 in the backbone's `policy`"

ENCODING = Stage(
    "encoding the prompts",
    (),
    "a shorter `text_length` of the backbone, bfloat16 in its `policy`, a larger device, or, where "
    "it is more, `embeddings.batch=1` (from Python, `batch` of flowbp.embeddings.cached) helps",
)
"""The text encoders, for prompts whose embeddings are not kept."""
SAMPLING = Stage(
    "sampling",
    (halved("samples"),),
    f"`samples` of the batching is at 1 there already: {_CURE}, or a larger device",
)
"""The rollout, its renoised copies and the anchor's reference."""
SCORING = Stage(
    "decoding and scoring",
    (halved("decode"),),
    f"`decode` of the batching is at 1 there already: {_CURE}, a smaller reward, or a larger "
    "device",
)
"""Decoder and reward, with their gradient."""
SWEEP = Stage(
    "the backward pass of the network",
    (halved("pull"), checkpointed),
    "`pull` of the batching is at 1 and gradient checkpointing on there already, if the backbone "
    f"has it: {_CURE}, training a LoRA (`tuning`), or a larger device",
)
"""The velocities with their gradient."""
UPDATE = Stage(
    "the update of the parameters",
    (),
    "no portion makes it smaller, nor does gradient checkpointing: training a LoRA (`tuning`), "
    "bfloat16 weights in the backbone's `policy`, or a larger device do",
)
"""The optimizer, whose first step allocates its state, and the average."""


class StageOutOfMemoryError(torch.OutOfMemoryError):
    """A stage of a step did not fit into the device's memory.

    Args:
        stage: which.
        count: samples that it had to work on.
        cause: what the device said.

    Example:
        >>> print(StageOutOfMemoryError(SCORING, 8, "tried to allocate 2 GiB"))
        out of memory in decoding and scoring: tried to allocate 2 GiB
    """

    def __init__(self, stage: Stage, count: int, cause: str) -> None:
        self.stage, self.count, self.cause = stage, count, cause
        super().__init__(f"out of memory in {stage.doing}: {cause}")


class ExhaustedError(StageOutOfMemoryError):
    """A stage does not fit into the device's memory in the smallest portions either.

    Args:
        stage: which.
        count: samples that it had to work on.
        cause: what the device said.

    Example:
        >>> str(ExhaustedError(UPDATE, 8, "tried to allocate 2 GiB")).split("; ")[1][:27]
        'no portion makes it smaller'
    """

    def __str__(self) -> str:
        """What the device said, and what else helps."""
        return f"{super().__str__()}; {self.stage.cure}"


@contextmanager
def running(stage: Stage, count: int) -> Iterator[None]:
    """Say in which stage memory ran out.

    Args:
        stage: that runs.
        count: samples that it has to work on.

    Raises:
        StageOutOfMemoryError: memory ran out, and no stage inside said so; an `ExhaustedError`
            where the stage has no lowerings.

    Example:
        >>> with running(SWEEP, 4):
        ...     raise torch.OutOfMemoryError("tried to allocate 2 GiB")
        Traceback (most recent call last):
        flowbp.training.stages.StageOutOfMemoryError: out of memory in the backward pass of the \
network: tried to allocate 2 GiB
    """
    try:
        yield
    except StageOutOfMemoryError:
        raise
    except Exception as error:
        if not is_short_memory(error):
            raise
        kind = StageOutOfMemoryError if stage.lowerings else ExhaustedError
        raise kind(stage, count, str(error)) from error
