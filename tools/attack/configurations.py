"""Configurations that are changed at random and checked: taken, or refused by key and value."""

from __future__ import annotations

import copy
import random
import resource
from collections.abc import Callable
from pathlib import Path
from typing import Any

from flowbp.config import dump, plain, read_text
from flowbp.evaluate import main as evaluate_main
from flowbp.run import main as run_main
from tools.attack.forks import Tried, command, forked
from tools.attack.kills import drawn
from tools.attack.mutation import ODD, TEXTS, at, paths
from tools.attack.scene import Scene

LIMIT = 30.0
"""Seconds that no check takes that does not hang."""

_MEMORY = 4 * 2**30
_BOMB = "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9 if n else ['x'] * 9)}]\n" for n in range(9)
)
_PIECES = (
    "!!python/object:os.system ", "!!binary ", "!foo ", "&a ", "*a ", "<<: ", "? ", "- ", "%TAG ",
    "\t", "\0", "---\n", "...\n", "{", "[" * 5000, "'", '"', "#", "9" * 5000, ": ", "1e999",
    "{a: " * 3000, "\ud800", "\x85", "=", "!!float '", "!!set {a, b}",
)  # fmt: skip


def attack(scene: Scene, seed: str, number: int, folder: Path) -> Tried:
    """Change a valid configuration, and check it."""
    source = random.Random(f"configurations {seed} {number}")
    evaluating = source.random() < 0.3
    text = Path(scene.evaluation_yaml if evaluating else scene.run_yaml).read_text()
    text = text.replace(f"{scene.folder}/evaluated", f"{folder}/out")
    base = plain(read_text(text, "base"))
    typed = [] if evaluating else drawn(source)
    key = "evaluation.folder" if evaluating else "run.folder"
    if source.random() < 0.5:
        typed = [f"{key}={folder / 'out'}", *typed]
    wanted: tuple[str, ...] = ()
    what = source.choice(["tree", "tree", "tree", "text", "override", "bytes"])
    content = text.encode()
    if what == "tree":
        changed, words, wanted = _changed(source, base)
        given = [each.partition("=")[0] for each in typed]
        # What the command line gives anew is no fault any more.
        if any(f"{words} ".startswith((f"{each} ", f"{each}.")) for each in given):
            wanted = ()
        content = dump(changed).encode()
    elif what == "override":
        typed = [*typed, *(_override(source, base) for _ in range(source.randint(1, 3)))]
        words = ""
    elif what == "text":
        content, words = _with_a_piece(source, text)
    else:
        name = source.choice(list(TEXTS))
        content, words = TEXTS[name](source, content), name
    path = folder / "configuration.yaml"
    path.write_bytes(content)
    words = " ".join([what, words, *(each[:120] for each in typed)])
    main = evaluate_main if evaluating else run_main
    call = command(main, [str(path), *typed, "--check"])
    ended = forked(_bounded(call), folder / "log", limit=LIMIT)
    said = ended.said[-2000:]
    if ended.fault or ended.code not in (0, 1, 2):
        return Tried(number, words, ended.fault or f"code {ended.code}", wrong=True, said=said)
    if ended.code == 0:
        return Tried(number, words, "taken")
    missing = [part for part in wanted if part not in ended.said]
    if missing:
        outcome = f"refused without {'key' if missing[0] == wanted[0] else 'value'}"
        return Tried(number, words, outcome, wrong=True, said=said)
    return Tried(number, words, "refused")


def _bounded(call: Callable[[], int]) -> Callable[[], int]:
    def bounded() -> int:
        with open("/proc/self/statm") as file:
            there = int(file.read().split()[0]) * resource.getpagesize()
        resource.setrlimit(resource.RLIMIT_AS, (there + _MEMORY,) * 2)
        return call()

    return bounded


def _changed(source: random.Random, base: Any) -> tuple[Any, str, tuple[str, ...]]:
    """A tree with one place changed, in words, and what a refusal of it is to name."""
    tree = copy.deepcopy(base)
    path = source.choice(paths(tree))
    above, key = at(tree, path[:-1]), path[-1]
    how = source.choice(["odd", "odd", "odd", "gone", "more", "swapped", "nested"])
    dotted = ".".join(map(str, path))
    if how == "odd":
        above[key] = value = source.choice(ODD)
        return tree, f"{dotted} = {str(value)[:60]!r}", (str(key), _shown(value))
    if how == "gone":
        del above[key]
        return tree, f"without {dotted}", ()
    if how == "more" and isinstance(above, dict):
        name = source.choice(["extra", f"{key}s", "name", "by", "", "1", "a.b", "step"])
        above[name] = source.choice(ODD)
        return tree, f"{dotted} beside {name!r}: {str(above[name])[:60]!r}", (name,) if name else ()
    if how == "nested":
        for _ in range(source.choice([1, 2, 60])):
            above[key] = {"a": above[key]} if source.random() < 0.5 else [above[key]]
        return tree, f"{dotted} nested", ()
    other = source.choice(paths(tree))
    above[key] = copy.deepcopy(at(base, other)) if other[: len(path)] != path else None
    return tree, f"{dotted} = that of {'.'.join(map(str, other))}", ()


def _shown(value: Any) -> str:
    """The beginning of a value that a message can be expected to repeat as it is."""
    text = str(value).strip()
    plain = isinstance(value, int | str) and text.isascii() and text.isprintable()
    # A message names what a path leads to.
    plain = plain and not isinstance(value, bool) and text not in ("~", "..")
    return text[:8] if plain else ""


def _override(source: random.Random, base: Any) -> str:
    path = ".".join(map(str, source.choice(paths(base))))
    values = [
        *(str(value)[:9000] for value in ODD), _BOMB, *_PIECES, "null", "{name: bridge, active: 3}",
    ]  # fmt: skip
    value = source.choice([each for each in values if "\0" not in each and "\ud800" not in each])
    key = source.choice([path, path, path, f"{path}.a", path.upper(), "", "by", "a" * 999])
    return source.choice([f"{key}={value}", f"{key}={value}", f"{key} = {value}", value or "x"])


def _with_a_piece(source: random.Random, text: str) -> tuple[bytes, str]:
    if source.random() < 0.1:
        return (_BOMB + text).encode(), "an alias bomb"
    lines = text.splitlines(keepends=True)
    if source.random() < 0.2:
        line = source.choice(lines)
        return (text + line).encode(), f"twice {line!r}"
    piece = source.choice(_PIECES)
    places = [at for at in range(1, len(text)) if text[at - 1] in "\n {:,"]
    place = source.choice(places)
    changed = text[:place] + piece + text[place:]
    return changed.encode("utf-8", errors="surrogatepass"), f"{piece[:30]!r} at {place}"
