"""The stages of a step, and what each does with smaller portions when memory runs out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import attrs
import torch

from flowbp.memory_errors import is_out_of_memory
from flowbp.training.sampling import Portions

Lowering = Callable[[Portions, int], Portions | None]
"""Smaller portions after so many samples did not fit at once; None where there are none."""


def halved(name: str) -> Lowering:
    """A lowering that halves one of the sizes."""

    def lowered(portions: Portions, count: int) -> Portions | None:
        # A size beyond the batch is the batch's; to halve that alone would change nothing.
        size = min(getattr(portions, name), count)
        return attrs.evolve(portions, **{name: size // 2}) if size > 1 else None

    return lowered


def checkpointed(portions: Portions, count: int) -> Portions | None:
    """A lowering that switches gradient checkpointing on, where it can be and is not yet."""
    able = portions.checkpointing is False
    return attrs.evolve(portions, checkpointing=True) if able else None


@attrs.frozen
class Stage:
    """A part of a step that may run out of memory."""

    doing: str
    lowerings: tuple[Lowering, ...]
    cure: str

    def lowered(self, portions: Portions, count: int) -> Portions | None:
        """The next smaller portions."""
        each = (lower(portions, count) for lower in self.lowerings)
        return next((smaller for smaller in each if smaller is not None), None)


_CURE = "smaller `height` and `width`, bfloat16 in the backbone's `policy`"

ENCODING = Stage(
    "encoding the prompts",
    (),
    "a shorter `text_length` of the backbone, bfloat16 in its `policy`, a larger device, or, where "
    "it is more, `embeddings.batch=1` (from Python, `batch` of flowbp.prompts.cached) helps",
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
    """A stage of a step did not fit into the device's memory."""

    def __init__(self, stage: Stage, count: int, cause: str) -> None:
        self.stage, self.count, self.cause = stage, count, cause
        super().__init__(f"out of memory in {stage.doing}: {cause}")


class ExhaustedError(StageOutOfMemoryError):
    """A stage does not fit into the device's memory in the smallest portions either."""

    def __str__(self) -> str:
        """What the device said, and what else helps."""
        return f"{super().__str__()}; {self.stage.cure}"


@contextmanager
def in_stage(stage: Stage, count: int) -> Iterator[None]:
    """Say in which stage memory ran out."""
    try:
        yield
    except StageOutOfMemoryError:
        raise
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        kind = StageOutOfMemoryError if stage.lowerings else ExhaustedError
        raise kind(stage, count, str(error)) from error
