"""Pictures for a list of prompts, from noise that belongs to each prompt's place in the list."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

import attrs
import torch
from torch import Tensor, nn

from flowbp.adapters.compiling import is_compiled
from flowbp.adapters.grids import MODEL_GRID, Grid
from flowbp.adapters.guided import guided_field
from flowbp.core import rollout
from flowbp.evaluation.validators import finite, up_to
from flowbp.limits import BATCH, GRID, SIDE

if TYPE_CHECKING:
    from flowbp.adapters.backbone import Backbone, Conditioning


class Progress(Protocol):
    """Told how far a long job is: `progress(done, total)`, in prompts."""

    def __call__(self, done: int, total: int) -> None:
        """Take note that `done` of `total` prompts are finished."""


@attrs.frozen(kw_only=True)
class Sampling:
    """How pictures are sampled: everything but the weights, the prompts and the seed.

    The velocity is ``v⁻ + guidance · (v⁺ − v⁻)``; with ``guidance=1`` it is ``v⁺`` alone and
    nothing is evaluated for the negative prompt.

    Args:
        steps: number of Euler steps, ≥ 1.
        height: picture height in pixels.
        width: picture width in pixels.
        guidance: scale of classifier-free guidance; 1 switches it off.
        negative_prompt: text of ``v⁻``.
        batch: prompts sampled together. It changes memory and speed, not which noise is used.
        decode: pictures decoded together; `batch` if None.
        grid: the sigmas of the steps; the model's own unless said otherwise.

    Raises:
        ValueError: for a grid of another number of steps, a size, count or scale that cannot be
            sampled, and for a negative prompt that `guidance` = 1 would ignore.

    Example:
        >>> Sampling(steps=25, height=512, width=512, guidance=3.5).batch
        16
    """

    steps: int = attrs.field(validator=up_to(GRID))
    height: int = attrs.field(validator=up_to(SIDE))
    width: int = attrs.field(validator=up_to(SIDE))
    guidance: float = attrs.field(default=1.0, converter=float, validator=finite)
    negative_prompt: str = ""
    batch: int = attrs.field(default=16, validator=up_to(BATCH))
    decode: int | None = attrs.field(
        default=None, validator=attrs.validators.optional(up_to(BATCH))
    )
    grid: Grid = MODEL_GRID

    def __attrs_post_init__(self) -> None:
        self.grid.known(self.steps)
        if self.negative_prompt and self.guidance == 1.0:
            raise ValueError(
                f"`negative_prompt` is {self.negative_prompt!r} but `guidance` is 1, which never "
                "evaluates it; raise `guidance` or leave `negative_prompt` empty"
            )


def noise_generator(noise_seed: int, index: int) -> torch.Generator:
    """The random generator of the prompt at `index`, a function of the two numbers alone.

    Neither the batch size, nor the device, nor the other prompts have a part in it, so runs before
    and after training start from the same noise. The pair is hashed, so that neighbouring seeds do
    not share streams.

    Args:
        noise_seed: the seed of the whole list.
        index: the prompt's place in the list.

    Returns:
        A fresh generator on the CPU.

    Example:
        >>> first, again = noise_generator(0, 3), noise_generator(0, 3)
        >>> bool((torch.randn(2, generator=first) == torch.randn(2, generator=again)).all())
        True
    """
    digest = hashlib.blake2b(f"{noise_seed}:{index}".encode(), digest_size=8).digest()
    # manual_seed refuses values of 2^63 and above on some builds.
    return torch.Generator().manual_seed(int.from_bytes(digest, "big") >> 1)


def generate_batches(
    backbone: Backbone,
    prompts: Sequence[str],
    noise_seed: int,
    sampling: Sampling,
    *,
    wanted: Callable[[slice], bool] = lambda chosen: True,
) -> Iterator[tuple[slice, Tensor]]:
    """Sample the prompts batch by batch, so that pictures can be used before all are there.

    Args:
        backbone: the model.
        prompts: texts, in an order that fixes each one's noise.
        noise_seed: seed of the noise, see `noise_generator`.
        sampling: steps, size, guidance and batch size.
        wanted: which batches to sample. A batch is sampled whole or not at all, because its
            composition has a part in how the figures round.

    Yields:
        The slice of `prompts` and its pictures ``(len(slice), 3, H, W)`` in [0, 1], float32, on
        the backbone's device, without gradient.

    Raises:
        ValueError: when `prompts` is empty.

    Example:
        See `generate`, which joins these batches.
    """
    if not prompts:
        raise ValueError("`prompts` is empty; give at least one prompt to sample")
    negative = None
    if sampling.guidance != 1.0:
        with torch.no_grad():
            negative = backbone.encode([sampling.negative_prompt])
    for start in range(0, len(prompts), sampling.batch):
        chosen = slice(start, min(start + sampling.batch, len(prompts)))
        if not wanted(chosen):
            continue
        yield chosen, _sample(backbone, prompts, chosen, noise_seed, sampling, negative)


def generate(
    backbone: Backbone,
    prompts: Sequence[str],
    noise_seed: int,
    sampling: Sampling,
    *,
    progress: Progress | None = None,
) -> Tensor:
    """Sample one picture for every prompt.

    Args:
        backbone: the model.
        prompts: texts, in an order that fixes each one's noise.
        noise_seed: seed of the noise, see `noise_generator`.
        sampling: steps, size, guidance and batch size.
        progress: called after every batch.

    Returns:
        Pictures ``(n, 3, H, W)`` in [0, 1], float32, on the CPU.

    Raises:
        ValueError: when `prompts` is empty.

    Example:
        >>> from types import SimpleNamespace
        >>> toy = SimpleNamespace(
        ...     module=torch.nn.Identity(),
        ...     device=torch.device("cpu"),
        ...     encode=lambda prompts: torch.zeros(len(prompts), 1),
        ...     noise=lambda count, *, height, width, generator: torch.randn(
        ...         count, 3, height, width, generator=generator
        ...     ),
        ...     sigmas=lambda steps, *, height, width: torch.linspace(1, 0, steps + 1),
        ...     velocity=lambda conditioning: lambda latents, sigma: latents,
        ...     decode=torch.sigmoid,
        ... )
        >>> prompts = ["a circle", "a square", "a cross"]
        >>> generate(toy, prompts, 0, Sampling(steps=2, height=4, width=4, batch=2)).shape
        torch.Size([3, 3, 4, 4])
    """
    images = []
    for chosen, batch in generate_batches(backbone, prompts, noise_seed, sampling):
        images.append(batch.cpu())
        if progress is not None:
            progress(chosen.stop, len(prompts))
    return torch.cat(images)


@torch.no_grad()
def _sample(
    backbone: Backbone,
    prompts: Sequence[str],
    chosen: slice,
    noise_seed: int,
    sampling: Sampling,
    negative: Conditioning | None,
) -> Tensor:
    size = {"height": sampling.height, "width": sampling.width}
    indices = list(range(chosen.start, chosen.stop))
    if is_compiled(backbone.module):
        # A smaller last batch would be compiled anew, which takes longer than to sample a whole
        # one. A list shorter than a batch has a single size, its own.
        indices += indices[-1:] * (min(sampling.batch, len(prompts)) - len(indices))
    noise = torch.cat(
        [backbone.noise(1, generator=noise_generator(noise_seed, i), **size) for i in indices]
    ).to(backbone.device)
    sigmas = sampling.grid.sigmas_of(backbone, sampling.steps, **size)
    with _dropout_off(backbone.module):
        conditioning = backbone.encode([prompts[i] for i in indices])
        velocity = guided_field(backbone.velocity, conditioning, negative, sampling.guidance)
        parts = torch.split(
            rollout(velocity, noise, sigmas).sample, sampling.decode or sampling.batch
        )
        pictures = torch.cat([backbone.decode(part).float() for part in parts])
        return pictures[: chosen.stop - chosen.start]


@contextmanager
def _dropout_off(module: nn.Module) -> Iterator[None]:
    training = [part for part in module.modules() if part.training]
    module.eval()
    try:
        yield
    finally:
        for part in training:
            part.training = True
