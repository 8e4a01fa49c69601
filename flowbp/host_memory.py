"""The memory of this machine that is free, as far as Linux and its control groups say."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

_PROCESS, _GROUPS = Path("/proc"), Path("/sys/fs/cgroup")

# Both versions of control groups: where their files are, how they begin there and what they hold.
_SECOND = ("", "memory.max", "memory.current", ("inactive_file", "active_file"))
_FIRST = (
    "memory",
    "memory.limit_in_bytes",
    "memory.usage_in_bytes",
    ("total_inactive_file", "total_active_file"),
)


def free_host_memory() -> int | None:
    """Bytes that this process can still allocate without swapping; None where it is not known."""
    try:
        lines = (_PROCESS / "meminfo").read_text().splitlines()
        table = dict(line.split(":", 1) for line in lines)
        free = int(table["MemAvailable"].split()[0]) * 1024
    except (OSError, KeyError, ValueError):
        return None
    return max(0, min([free, *_left_in_groups()]))


def _left_in_groups() -> Iterator[int]:
    """What the limits of the groups that this process is in leave, as a container's do."""
    try:
        lines = (_PROCESS / "self" / "cgroup").read_text().splitlines()
    except OSError:
        return
    own = {kind: path.strip("/") for _, kind, path in (line.split(":", 2) for line in lines)}
    for kind, limit, usage, caches in (_SECOND, _FIRST):
        if kind not in own:
            continue
        root = _GROUPS / kind
        group = root / own[kind]
        # The path is the host's, of which a container may see the end alone.
        for place in (group, *group.parents[: len(group.parts) - len(root.parts)]):
            try:
                most, used = (int((place / name).read_text()) for name in (limit, usage))
                stat = dict(line.split() for line in (place / "memory.stat").open())
                # What files are cached in is given up where it is needed.
                yield most - used + sum(int(stat.get(name, 0)) for name in caches)
            except (OSError, ValueError):
                # Not there, or without a limit, which is "max".
                continue
