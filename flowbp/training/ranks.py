"""The processes that train one model together: each has its part of every batch.

All hold the same parameters. They draw the whole batch, work on their own part of it, and sum the
gradients once a step, so that the step of several is the step of one on the same batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any, TypeVar

import attrs
import torch
from torch import Tensor, nn

from flowbp.training.memory_stages import Stage, StageOutOfMemoryError
from flowbp.training.randomness import generator, seeded

T = TypeVar("T")


@attrs.frozen
class Shortage:
    """That a process ran out of memory, as it is said to the others."""

    stage: Stage
    count: int
    cause: str


class AgreedShortageError(StageOutOfMemoryError):
    """Memory ran out on one process, and all of them know it."""


class Ranks:
    """The processes of a run as one of them sees them; this class is a process alone.

    A step takes the prompts of the whole batch and works on `part` of it. Everything that others
    take part in is called by all in the same order.

    Example:
        >>> import torch
        >>> Ranks().part(4), Ranks().exchange("own"), Ranks().gathered([torch.ones(2)])
        (slice(0, 4, None), ['own'], [tensor([1., 1.])])
    """

    rank = 0
    size = 1
    # A group of torch.distributed for what goes from host to host; None of a process alone.
    control: Any = None

    @property
    def first(self) -> bool:
        """Whether this one prints, writes files and evaluates."""
        return self.rank == 0

    def part(self, count: int) -> slice:
        """This one's samples of a batch of `count`, which `size` divides."""
        if count % self.size:
            raise ValueError(
                f"`count` must be a multiple of the {self.size} processes, got {count}; each works "
                "on as many samples as the others"
            )
        own = count // self.size
        return slice(self.rank * own, (self.rank + 1) * own)

    def exchange(self, value: T) -> list[T]:
        """The values of all, in the order of their ranks.

        Raises:
            RankEndedError: another one has ended.
            AgreedShortageError: another one has run out of memory, or this one, see `agree_on`.
        """
        return [value]

    def agreed(self, question: str, answer: str) -> str:
        """What the first to answer a question has answered; nobody waits for another."""
        return answer

    def collected(self, value: T) -> list[T]:
        """The values of all on the first, in the order of their ranks; none on the others.

        Raises:
            RankEndedError: another one has ended.
        """
        return [value]

    def spread(self, parameters: Iterable[nn.Parameter]) -> None:
        """Give all the parameters of the first."""

    def gathered(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Each tensor (n, …) joined with those of the others, in one exchange; n may differ."""
        return list(tensors)

    def among_all(self, norms: Tensor) -> Tensor:
        """The norms (n,) of these samples and those of the others."""
        return self.gathered([norms])[0].to(norms.device)

    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replace every `.grad` by the sum over all, once none has run out of memory."""

    def settle(self, device: torch.device) -> None:
        """Wait until a device has done what it does together with others.

        Raises:
            RankEndedError: another one has ended, and it never will.
        """

    def agree_on(self, error: StageOutOfMemoryError) -> StageOutOfMemoryError:
        """What all repeat the step for, where this one, and perhaps others, ran out of memory."""
        return error

    def reseed(self, seed: int, step: int) -> None:
        """Give the others than the first torch generators of their own for a step.

        Dropout must not draw the same for all; a seed of each step needs no place in a checkpoint.
        """
        if not self.first:
            torch.manual_seed(generator(seed, f"torch of {self.rank} at {step}").initial_seed())

    def drawing_alike(
        self, seed: int, step: int, device: torch.device, part: int = 0
    ) -> AbstractContextManager[None]:
        """Have all that hold the same `part` draw the same from torch's generators for a while.

        An optimizer that draws, to round say, would have the copies drift apart. A process alone
        draws on as it did.
        """
        if self.size == 1:
            return nullcontext()
        return seeded(seed, device, f"torch of the update of part {part} at {step}")

    def mesh(self, shard: int, device: torch.device) -> Any:
        """A mesh of all processes, of which `shard` share a copy of the model."""
        raise ValueError(
            f"`shard` must be 1, got {shard}; a process alone has nobody to share with"
        )

    def failed(self) -> int | None:
        """The lowest rank that has failed by itself, None if none has said so."""
        return None

    def together(self) -> AbstractContextManager[None]:
        """Have a block end on all as soon as it fails or is interrupted on one.

        What another one's failure causes here, a signal of the launcher say, is a `RankEndedError`.
        From then on signals are ignored, so that what is saved is saved whole.
        """
        return nullcontext()


ALONE = Ranks()
