"""The stages of a step, and how each shrinks where memory is short."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import attrs
import torch

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
    """A part of a step whose memory goes by one of the portions.

    Args:
        doing: what it does, for a message.
        lowerings: that make it smaller, tried in this order.
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


_SHORT = ("CUBLAS_STATUS_ALLOC_FAILED", "CUDNN_STATUS_ALLOC_FAILED", "CUDA error: out of memory")
"""What libraries under torch say, in errors of no type of their own."""

_CURE = "smaller `height` and `width`, bfloat16 in the backbone's `policy`"

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


def is_short_memory(error: RuntimeError) -> bool:
    """Whether an error says that the device's memory ran out, in torch's words or a library's.

    Args:
        error: of anything that ran on the device.

    Example:
        >>> is_short_memory(RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling …"))
        True
    """
    told = str(error)
    return isinstance(error, torch.OutOfMemoryError) or any(words in told for words in _SHORT)


@contextmanager
def running(stage: Stage, count: int) -> Iterator[None]:
    """Say in which stage memory ran out.

    Args:
        stage: that runs.
        count: samples that it has to work on.

    Raises:
        StageOutOfMemoryError: memory ran out, and no stage inside said so.

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
    except RuntimeError as error:
        if not is_short_memory(error):
            raise
        raise StageOutOfMemoryError(stage, count, str(error)) from error
