"""How far a long job before or after training is, on a terminal or in a log."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager

from flowbp.adapters.extras import require
from flowbp.evaluation import Progress


@contextmanager
def told_progress(what: str, total: int) -> Iterator[Progress | None]:
    """A bar on a terminal, elsewhere one line at the start.

    Args:
        what: is done, such as ``evaluating before training``.
        total: prompts.

    Yields:
        What the job calls with ``(done, total)``, None where nothing would come of it.

    Example:
        >>> with told_progress("encoding", 3) as progress:
        ...     pass
    """
    if not sys.stderr.isatty():
        print(f"{what}: {total} prompts", file=sys.stderr, flush=True)
        yield None
        return
    tqdm = require("tqdm", extra="run").tqdm
    with tqdm(total=total, desc=what, unit="prompt", leave=False) as bar:
        yield lambda done, _: bar.update(done - bar.n)
