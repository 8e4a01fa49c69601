"""Every prompt is encoded before a command starts, and the encoders leave memory."""

from __future__ import annotations

import json
import warnings
from collections.abc import Sequence
from pathlib import Path

import attrs

from flowbp.adapters import CutPromptWarning
from flowbp.cli.progress import report_progress
from flowbp.files import write_atomically
from flowbp.prompts import CachedBackbone
from flowbp.training import ALONE, Ranks
from flowbp.training.memory_stages import ENCODING, in_stage

CUT_PROMPTS = "cut_prompts.jsonl"
"""The file of a folder that lists the prompts that are cut."""

_NAMED = 3


def encode_prompts(
    model: CachedBackbone,
    prompts: Sequence[str],
    *,
    listed_in: Path | None = None,
    ranks: Ranks = ALONE,
) -> None:
    """Encode the prompts that are not kept yet, and release the encoders.

    Processes divide the work where they keep embeddings in the same folder; elsewhere each encodes
    for itself.
    """
    cut = model.cut(prompts) if ranks.first else ()
    if cut:
        first = ", ".join(map(str, cut[:_NAMED])) + (", …" if len(cut) > _NAMED else "")
        place = ""
        if listed_in is not None:
            lines = "".join(f"{json.dumps(attrs.asdict(e), ensure_ascii=False)}\n" for e in cut)
            write_atomically(listed_in / CUT_PROMPTS, lines)
            place = f"; all are in {listed_in / CUT_PROMPTS}"
        warnings.warn(
            f"{len(cut):,} of the {len(prompts):,} prompts are longer than what the text encoders "
            f"read and are cut: {first}{place}; {model.cure_of_cut}",
            CutPromptWarning,
            stacklevel=2,
        )
    if ranks.size > 1:
        _encode(model, prompts, ranks.exchange(model.absent(prompts))[0][ranks.rank :: ranks.size])
        ranks.exchange(None)
    _encode(model, prompts, model.absent(prompts))
    model.release()


def _encode(model: CachedBackbone, prompts: Sequence[str], absent: Sequence[str]) -> None:
    if absent:
        what = f"encoding, {len(prompts) - len(absent):,} of this run's {len(prompts):,} are cached"
        with report_progress(what, len(absent)) as progress, in_stage(ENCODING, len(absent)):
            model.fill(absent, progress)
