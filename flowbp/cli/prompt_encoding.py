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
from flowbp.prompts import CachedBackbone, FolderStore
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
    absent = model.absent(prompts)
    kept = len(prompts) - len(absent)
    what = f"encoding, {kept:,} of {len(prompts):,} are kept" if kept else "encoding"
    if ranks.size > 1 and isinstance(model.store, FolderStore):
        # The list of the first, as the others may look when some are written already.
        _encode(model, ranks.exchange(absent)[0][ranks.rank :: ranks.size], what)
        ranks.exchange(None)
        # Those that another one has written where this one cannot see it.
        absent = model.absent(prompts)
    _encode(model, absent, what)
    model.release()


def _encode(model: CachedBackbone, absent: Sequence[str], what: str) -> None:
    if absent:
        with report_progress(what, len(absent)) as progress, in_stage(ENCODING, len(absent)):
            model.fill(absent, progress)
