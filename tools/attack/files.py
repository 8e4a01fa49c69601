"""Folders with a damaged file: refused by name, or the undamaged one's result, bit for bit."""

from __future__ import annotations

import random
import shutil
from pathlib import Path

from tools.attack.forks import Tried
from tools.attack.mutation import BYTES, damaged_json, removed, replaced_by_a_node
from tools.attack.scene import USES, Scene, outcome


def attack(scene: Scene, seed: str, number: int, folder: Path) -> Tried:
    """Damage a file or folder, then have the command use it."""
    source = random.Random(f"files {seed} {number}")
    use = source.choice(USES)
    place = scene.copy(use.of, folder / "copy")
    files = (each for each in sorted((place / use.within).rglob("*")) if each.is_file())
    path = source.choice([each for each in files if each.name != ".lock"])
    name, elsewhere = path.relative_to(place).as_posix(), folder / "elsewhere"
    whole = path.read_bytes()
    drawn = f"{use.name}: {name}: {_damage(source, path, place, elsewhere)}"
    if path.is_file() and not path.is_symlink() and path.read_bytes() == whole:
        return Tried(number, drawn, "nothing changed")
    gone = name if path.parent.exists() else path.parent.relative_to(place).as_posix()
    ended = use(scene, place, folder)
    said = ended.said[-2000:]
    if ended.fault:
        return Tried(number, drawn, ended.fault, wrong=True, said=said)
    if elsewhere.exists() and elsewhere.read_bytes() != whole:
        return Tried(number, drawn, "written through a link", wrong=True, said=said)
    if ended.code != 0:
        words = {path.name, path.stem, *Path(name).parts[:-1]} - {"training", "checkpoints"}
        named = any(word in ended.said for word in words)
        outcome_ = "refused" if named else "refused, unnamed"
        return Tried(number, drawn, outcome_, wrong=not named, said=said)
    one, other = outcome(use.result(place, folder)), outcome(scene.folder / "reference" / use.name)
    # What nothing reads or writes stays damaged.
    names = {each for each in one.keys() | other.keys() if not each.startswith(gone)}
    differing = sorted(each for each in names if one.get(each) != other.get(each))
    # A run that goes on from an older checkpoint keeps others of those on its way.
    passing = [each for each in differing if each.startswith("checkpoints/step-")]
    differing = [n for n in differing if n not in passing or (n in one and n in other)]
    if use.name == "evaluate":
        # There the evaluation keeps which files it was given.
        differing = [each for each in differing if not each.startswith("models/")]
    if not differing:
        return Tried(number, drawn, "same")
    said = f"{said}\n{len(differing)} files differ: {', '.join(differing[:9])}"
    return Tried(number, drawn, "accepted", wrong=True, said=said)


def _damage(source: random.Random, path: Path, place: Path, elsewhere: Path) -> str:
    """Damage a file, or now and then its folder, in one of many ways; returns which."""
    kind = source.choice(["bytes", "bytes", "json", "json", "other step", "deleted", "node"])
    content = path.read_bytes()
    if kind == "json" and (changed := damaged_json(source, content)) is not None:
        path.write_bytes(changed)
        return "a value of its JSON"
    namesakes = (each for each in sorted(place.rglob(path.name)) if each.is_file())
    others = [each for each in namesakes if each.read_bytes() != content]
    if kind == "other step" and others:
        other = source.choice(others)
        shutil.copyfile(other, path)
        return f"{other.relative_to(place)} in its place"
    if kind == "deleted":
        gone = path.parent if path.parent != place and source.random() < 0.3 else path
        removed(gone)
        return "deleted" if gone is path else "its folder deleted"
    if kind == "node":
        return replaced_by_a_node(source, path, elsewhere)
    name = source.choice(list(BYTES))
    path.write_bytes(BYTES[name](source, content))
    return name
