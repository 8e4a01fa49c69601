"""The stages of a step, and what each does with smaller portions when memory runs out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import attrs
import torch

from flowbp.memory_errors import is_out_of_memory
from flowbp.training.batching import Portions


@attrs.frozen(kw_only=True)
class Stage:
    """A part of a step that may run out of memory."""

    doing: str
    cure: str
    # The size of its portions; None where no smaller ones would help.
    size: str | None = None
    # Whether gradient checkpointing helps once the size is 1.
    checkpointing: bool = False

    def lowered(self, portions: Portions, count: int) -> Portions | None:
        """Smaller portions after so many samples did not fit at once; None where there are none."""
        # A size beyond the batch is the batch's; to halve that alone would change nothing.
        size: Any = min(getattr(portions, self.size), count) if self.size else 1
        if self.size and size > 1:
            return attrs.evolve(portions, **{self.size: size // 2})
        able = self.checkpointing and portions.checkpointing is False
        return attrs.evolve(portions, checkpointing=True) if able else None

    def advice(self, portions: Portions) -> str:
        """What takes less than these portions, before anything has run out of memory."""
        smaller = self.lowered(portions, portions.samples)
        return self.cure if smaller is None else f"{smaller.changed_from(portions)} takes less"


_CURE = "smaller `height` and `width`, bfloat16 in the backbone's `policy`"

# The text encoders, for prompts whose embeddings are not kept.
ENCODING = Stage(
    doing="encoding the prompts",
    cure="a shorter `text_length` of the backbone, bfloat16 in its `policy`, a larger device, or, "
    "where it is more, `embeddings.batch=1` (from Python, `batch` of flowbp.prompts.cached) helps",
)
# The rollout, its renoised copies and the anchor's reference.
SAMPLING = Stage(
    doing="sampling",
    size="samples",
    cure=f"`samples` of the batching is at 1 there already: {_CURE}, or a larger device",
)
# Decoder and reward, with their gradient.
SCORING = Stage(
    doing="decoding and scoring",
    size="decode",
    cure=f"`decode` of the batching is at 1 there already: {_CURE}, a smaller reward, or a larger "
    "device",
)
# The velocities with their gradient.
SWEEP = Stage(
    doing="the backward pass of the network",
    size="pull",
    checkpointing=True,
    cure="`pull` of the batching is at 1 and gradient checkpointing on there already, if the "
    f"backbone has it: {_CURE}, training a LoRA (`tuning`), or a larger device",
)
# The optimizer, whose first step allocates its state, and the average.
UPDATE = Stage(
    doing="the update of the parameters",
    cure="no portion makes it smaller, nor does gradient checkpointing: training a LoRA "
    "(`tuning`), bfloat16 weights in the backbone's `policy`, or a larger device do",
)

# The gradients of all processes, where each keeps a share.
SUMMING = Stage(doing="summing the gradients", cure=UPDATE.cure)


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
        kind = StageOutOfMemoryError if stage.size else ExhaustedError
        raise kind(stage, count, str(error)) from error
