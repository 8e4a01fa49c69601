"""`python -m tools.attack`: tries of one kind, or of all, counted."""

from __future__ import annotations

import argparse
import collections
import functools
import json
import os
import sys
import tempfile
import time
from pathlib import Path

import attrs

from tools.attack import configurations, files, kills, prompts
from tools.attack.forks import Tried, tried
from tools.attack.scene import made

ATTACKS = {
    "kills": kills.attack,
    "configurations": configurations.attack,
    "files": files.attack,
    "prompts": prompts.attack,
}


def main() -> int:
    """Attack, print a table and, with `--json`, write all that was found."""
    typed = _parser().parse_args()
    wanted = {kind: typed.count for kind in ATTACKS} if not typed.kinds else dict(typed.kinds)
    # Nothing is asked of the network, and no thread is there when a process forks.
    os.environ |= {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    folder = typed.folder or Path(tempfile.mkdtemp(prefix="flowbp-attack-"))
    folder.mkdir(parents=True, exist_ok=True)
    scene = made(folder)
    found: dict[str, list[Tried]] = {}
    for kind, count in wanted.items():
        began = time.monotonic()
        attack = functools.partial(ATTACKS[kind], scene, str(typed.seed))
        numbers = range(typed.first, typed.first + (typed.count if count is None else count))
        found[kind] = []
        for each in tried(attack, numbers, jobs=typed.jobs, folder=folder / kind):
            found[kind].append(each)
            if each.wrong:
                print(f"\n{kind} {each.number}: {each.outcome}\n  {each.drawn}", flush=True)
                print("    " + "\n    ".join(each.said.strip().splitlines()[-typed.lines :]))
        _print_counts(kind, found[kind], time.monotonic() - began)
    if typed.json:
        tree = {kind: [attrs.asdict(each) for each in tries] for kind, tries in found.items()}
        typed.json.write_text(json.dumps({"seed": typed.seed, **tree}, indent=1) + "\n")
    wrong = sum(each.wrong for tries in found.values() for each in tries)
    print(f"{wrong} findings; seed {typed.seed}" + (f"; see {folder}" if wrong else ""))
    return 1 if wrong else 0


def _print_counts(kind: str, tries: list[Tried], seconds: float) -> None:
    counts = collections.Counter((each.wrong, each.outcome) for each in tries)
    killed = sum(each.kills for each in tries)
    print(f"\n{kind}: {len(tries)} tries, {killed} kills, {seconds:.0f} s")
    for (wrong, outcome), count in sorted(counts.items()):
        print(f"  {count:>6}  {outcome}{'  <- wrong' if wrong else ''}")


def _kind(text: str) -> tuple[str, int | None]:
    kind, _, count = text.partition("=")
    if kind not in ATTACKS:
        raise argparse.ArgumentTypeError(f"must be one of {', '.join(ATTACKS)}, got {kind!r}")
    return kind, int(count) if count else None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tools.attack", description=__doc__)
    words = f"{', '.join(ATTACKS)}; all by default; kills=100 makes 100 tries of it"
    parser.add_argument("kinds", nargs="*", type=_kind, help=words)
    parser.add_argument("--count", type=int, default=20, help="tries of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="the number of the first try")
    parser.add_argument("--jobs", type=int, default=2, help="tries at a time")
    parser.add_argument("--folder", type=Path, help="new; what the tries that found something left")
    parser.add_argument("--lines", type=int, default=6, help="shown of what a process said")
    parser.add_argument("--json", type=Path, help="where all tries are written")
    return parser


if __name__ == "__main__":
    sys.exit(main())
