"""Every prompt of a run is encoded before it starts, and the encoders leave memory."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from pathlib import Path

import attrs

from flowbp.adapters import CutPromptWarning
from flowbp.container import RunContainer
from flowbp.embeddings import CachedBackbone
from flowbp.files import write_whole
from flowbp.run.telling import told_progress
from flowbp.training import Streams
from flowbp.training.prompts import drawn
from flowbp.training.stages import ENCODING, running

CUT_PROMPTS = "cut_prompts.jsonl"
"""The file of a folder that lists the prompts that are cut."""

_NAMED = 3


def run_prompts(container: RunContainer) -> tuple[str, ...]:
    """Every prompt that a run will encode, each once.

    Which prompts will be drawn is known beforehand, for a source's stream is decided by its
    generator alone: those of training are drawn here as the trainer will draw them.

    Args:
        container: of the run.

    Returns:
        The prompts of training, evaluation, samples and calibration, and the negative one under
        guidance.

    Example:
        See `flowbp.run.execution.execute`.
    """
    settings = container.settings()
    own = container.own_prompts()
    stream = iter(own.stream(Streams.of(settings.run.seed).prompts))
    count = settings.training.steps * settings.batching.total
    snapshots, evaluation = container.snapshots(), container.evaluation_sampling()
    found = dict.fromkeys(prompt.text for prompt in container.held_out())
    found |= dict.fromkeys(snapshots.prompts if snapshots else ())
    found |= dict.fromkeys(container.calibration_prompts())
    if settings.sampling.guided or (evaluation is not None and evaluation.guidance != 1):
        found[settings.sampling.negative_prompt] = None
    return tuple(found | dict.fromkeys(drawn(own, stream, count)))


def encode_prompts(container: RunContainer, *, listed_in: Path | None = None) -> None:
    """Encode what the cache does not hold, and release the encoders.

    Args:
        container: of the run.
        listed_in: the run's folder, once the run has claimed it; see `encode_all`.

    Warns:
        CutPromptWarning: how many prompts are longer than what the encoders read, which, and what
            to do.

    Raises:
        EmbeddingsError: the cache has no room, or cannot be written.
        ExhaustedError: the encoders do not fit into the device's memory.

    Example:
        See `flowbp.run.execution.execute`.
    """
    encode_all(container.model(), run_prompts(container), listed_in=listed_in)


def encode_all(
    model: CachedBackbone, prompts: Sequence[str], *, listed_in: Path | None = None
) -> None:
    """Encode the prompts that are not kept yet, and release the encoders.

    Args:
        model: with its store.
        prompts: each once.
        listed_in: a folder that gets the list of all prompts that are cut; None writes none.

    Warns:
        CutPromptWarning: how many prompts are longer than what the encoders read, which, and what
            to do.

    Raises:
        EmbeddingsError: the cache has no room, or cannot be written.
        ExhaustedError: the encoders do not fit into the device's memory.
        OSError: the list cannot be written.

    Example:
        >>> from flowbp.embeddings import cached
        >>> from flowbp.shapes.embedded import embedded_backbone
        >>> model = cached(embedded_backbone(), None)
        >>> encode_all(model, ["a circle"])
        >>> model.absent(["a circle"])
        []
    """
    cut = model.cut(prompts)
    if cut:
        first = ", ".join(map(str, cut[:_NAMED])) + (", …" if len(cut) > _NAMED else "")
        place = ""
        if listed_in is not None:
            lines = "".join(f"{json.dumps(attrs.asdict(e), ensure_ascii=False)}\n" for e in cut)
            write_whole(listed_in / CUT_PROMPTS, lines)
            place = f"; all are in {listed_in / CUT_PROMPTS}"
        warnings.warn(
            f"{len(cut):,} of the {len(prompts):,} prompts are longer than what the text encoders "
            f"read and are cut: {first}{place}; {model.cure_of_cut}",
            CutPromptWarning,
            stacklevel=2,
        )
    absent = model.absent(prompts)
    if absent:
        what = f"encoding, {len(prompts) - len(absent):,} of this run's {len(prompts):,} are cached"
        with told_progress(what, len(absent)) as progress, running(ENCODING, len(absent)):
            model.fill(absent, progress)
    model.release()
