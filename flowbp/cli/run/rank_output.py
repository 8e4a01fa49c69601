"""What the processes of a run print: the first all of it, another one only why it failed."""

from __future__ import annotations

import io
import os
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, redirect_stderr, redirect_stdout

from flowbp.cli.console import STOPPED
from flowbp.cli.start import INTERRUPTED
from flowbp.training import Ranks

_MOMENT = 1.0
"""Seconds in which a process of lower rank says the same, if all have found the same fault."""


@contextmanager
def in_silence(ranks: Ranks) -> Iterator[None]:
    """Print nothing on others than the first process."""
    if ranks.first:
        yield
        return
    with open(os.devnull, "w") as nowhere, redirect_stdout(nowhere), redirect_stderr(nowhere):
        yield


def speaking_once(ranks: Ranks, command: Callable[[], int]) -> int:
    """Call a command on all processes, and return its exit code.

    What another than the first prints of its failure is printed, with its rank, unless one of
    lower rank has failed by itself as well. Of several processes each ends here and now; one that
    failed waits for none of the others, and they notice.
    """
    if ranks.size == 1:
        return command()
    said = io.StringIO()
    try:
        with nullcontext() if ranks.first else redirect_stderr(said):
            code = command()
    except Exception:
        # A bug, or under --debug: Python would end in its own time, and the others wait.
        traceback.print_exc()
        code = STOPPED
    else:
        if not ranks.first and code not in (0, INTERRUPTED):
            time.sleep(_MOMENT)
            if ranks.failed() == ranks.rank:
                print(f"rank {ranks.rank}: {said.getvalue()}", end="", file=sys.stderr)
    # Not at Python's own end: a process that failed would keep the others waiting until then, and
    # one that is done may be aborted there by a thread of torch.distributed.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
