"""Pictures for a list of prompts, from noise that belongs to each prompt's place in the list."""

from __future__ import annotations

import hashlib
import json
import math
import platform
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Protocol, TypeVar

import attrs
import torch
from torch import Tensor, nn

import flowbp
from flowbp.adapters.backbone import Backbone, Conditioning, guided_field
from flowbp.adapters.capabilities import rescale_of
from flowbp.adapters.compilation import is_compiled
from flowbp.adapters.sharding import gathered
from flowbp.adapters.sigmas import MODEL_GRID, Grid
from flowbp.core import rollout
from flowbp.limits import BATCH, GRID, SIDE
from flowbp.validators import integer, real

T = TypeVar("T")


class Sharers(Protocol):
    """The processes that sample a list together, such as `flowbp.training.Ranks`."""

    @property
    def rank(self) -> int:
        """The number of this one; 0 is the first, which gets all pictures."""

    @property
    def size(self) -> int:
        """How many there are."""

    def exchange(self, value: T) -> list[T]:
        """The values of all, on all."""

    def collected(self, value: T) -> list[T]:
        """The values of all, on the first; nothing on the others."""


class Progress(Protocol):
    """Shows how far a long job is: `progress(done, total)`, in prompts."""

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

    steps: int = attrs.field(validator=integer(1, GRID))
    height: int = attrs.field(validator=integer(1, SIDE))
    width: int = attrs.field(validator=integer(1, SIDE))
    guidance: float = attrs.field(default=1.0, converter=float, validator=real(-math.inf))
    negative_prompt: str = ""
    batch: int = attrs.field(default=16, validator=integer(1, BATCH))
    decode: int | None = attrs.field(
        default=None, validator=attrs.validators.optional(integer(1, BATCH))
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
    """The random generator of the prompt at `index`, a function of the two numbers alone."""
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
    ranks: Sharers | None = None,
) -> Iterator[tuple[slice, Tensor]]:
    """Sample the prompts batch by batch, so that pictures can be used before all are there.

    Several processes share the work as in `scored_batches`.
    """
    batches = scored_batches(
        backbone, prompts, noise_seed, sampling, _unscored, wanted=wanted, ranks=ranks
    )
    for chosen, pictures, _ in batches:
        yield chosen, pictures.to(backbone.device)


def _unscored(chosen: slice, pictures: Tensor) -> None:
    """What is made of pictures that are only looked at."""


def scored_batches(
    backbone: Backbone,
    prompts: Sequence[str],
    noise_seed: int,
    sampling: Sampling,
    score: Callable[[slice, Tensor], T],
    *,
    wanted: Callable[[slice], bool] = lambda chosen: True,
    ranks: Sharers | None = None,
) -> Iterator[tuple[slice, Tensor, T]]:
    """Sample the prompts batch by batch, and score each batch where it was sampled.

    Several processes take turns at the batches, which are those of one process. The first gets all
    of them, in their order and on the CPU; the others get none, and have done their part at the
    end. All of them score alike.
    """
    if not prompts:
        raise ValueError("`prompts` is empty; give at least one prompt to sample")
    negative = None
    if sampling.guidance != 1.0:
        with torch.no_grad():
            negative = backbone.encode([sampling.negative_prompt])
    starts = range(0, len(prompts), sampling.batch)
    slices = [slice(start, min(start + sampling.batch, len(prompts))) for start in starts]
    slices = [chosen for chosen in slices if wanted(chosen)]

    def sampled(chosen: slice) -> Tensor:
        return _sample(backbone, prompts, chosen, noise_seed, sampling, negative)

    if ranks is None or ranks.size == 1:
        for chosen in slices:
            pictures = sampled(chosen)
            yield chosen, pictures, score(chosen, pictures)
        return
    with gathered(backbone.module):
        for first in range(0, len(slices), ranks.size):
            turns = slices[first : first + ranks.size]
            # The last turn may be of fewer. All sample nevertheless, as a sharded model needs it.
            own = turns[min(ranks.rank, len(turns) - 1)]
            pictures = sampled(own)
            done = None
            if ranks.rank < len(turns):
                done = pictures.cpu(), score(own, pictures)
            for chosen, found in zip(turns, ranks.collected(done), strict=False):
                # Those that have had no turn are left out.
                assert found is not None
                yield chosen, *found


def take_part(
    backbone: Backbone,
    prompts: Sequence[str],
    noise_seed: int,
    sampling: Sampling,
    ranks: Sharers,
    *,
    score: Callable[[slice, Tensor], object] = _unscored,
) -> None:
    """Sample and score what falls to another process than the first, which does the same."""
    for _ in scored_batches(backbone, prompts, noise_seed, sampling, score, ranks=ranks):
        raise AssertionError("pictures come to the first process alone")


def generate(
    backbone: Backbone,
    prompts: Sequence[str],
    noise_seed: int,
    sampling: Sampling,
    *,
    progress: Progress | None = None,
    ranks: Sharers | None = None,
) -> Tensor:
    """Sample one picture for every prompt; of several processes on the first."""
    images = []
    for chosen, batch in generate_batches(backbone, prompts, noise_seed, sampling, ranks=ranks):
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
        velocity = guided_field(
            backbone.velocity,
            conditioning,
            negative,
            sampling.guidance,
            rescale=rescale_of(backbone),
        )
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


def own_facts(backbone: object) -> Mapping[str, Any]:
    """What a backbone says that its pictures depend on; nothing of one that has no `facts`."""
    found = getattr(backbone, "facts", None)
    return found if isinstance(found, Mapping) else {}


def sampling_facts(backbone: Backbone, sampling: Sampling) -> dict[str, str]:
    """What pictures of a sampling depend on besides weights, prompt and noise."""
    size = {"height": sampling.height, "width": sampling.width}
    sigmas = sampling.grid.sigmas_of(backbone, sampling.steps, **size)
    facts: dict[str, Any] = {
        "steps": sampling.steps,
        "sigmas": [round(sigma, 7) for sigma in sigmas.tolist()],
        "guidance": sampling.guidance,
        "negative_prompt": sampling.negative_prompt,
        **size,
        **own_facts(backbone),
    }
    return {
        name: each if isinstance(each, str) else json.dumps(each, default=str)
        for name, each in facts.items()
    }


PACKAGES = ("torch", "diffusers", "transformers", "peft")


def environment(
    device: torch.device, seed: int, *, packages: Sequence[str] = PACKAGES
) -> dict[str, str]:
    """Versions, threads, device and seed, as text. Names of machines and of users are not in it."""
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return {
        "seed": str(seed),
        "device": f"{device} ({name})",
        "threads": str(torch.get_num_threads()),
        "python": platform.python_version(),
        "system": platform.system(),
        "flowbp": flowbp.__version__,
        **{package: _version(package) for package in packages},
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
