"""What is attacked: tiny models, a run on them and an evaluation of it, and what each left."""

from __future__ import annotations

import contextlib
import importlib
import json
import shutil
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import attrs
import torch

from flowbp.config.sealed_files import SEAL
from flowbp.evaluate import main as evaluate_main
from flowbp.run import main as run_main
from tests.tiny_run import CONFIGURATION, save_models
from tools.attack.forks import Ended, command, forked

LIMIT = 120.0
"""Seconds that no process takes that does not hang."""

RUN = [
    "training.steps=3",
    "checkpoints={every: 1, keep: 3}",
    "evaluation={prompts: {name: shapes, count: 2}, every: 2}",
    "samples={every: 2, count: 2}",
]
EVALUATION = """
evaluation: {{folder: {folder}/evaluated, device: cpu, threads: 1, batch: 4}}
backbone: {{name: sd3, source: {folder}/models/base, text_length: 4}}
models: {{base: {{}}, aligned: {{checkpoint: {folder}/finished/checkpoints/final}}}}
prompts: {{name: shapes, count: 2}}
sampling: {{steps: 2, height: 16, width: 16, batch: 4}}
metrics: {{likeness: {{name: clip, source: {folder}/models/reward}}}}
embeddings: {{folder: {folder}/embeddings}}
"""
# What tells the folder, the time or the digests of files that tell the time.
_OWN = {
    ".lock",
    ".digests.json",
    "configuration.yaml",
    "manifest.json",
    "report.html",
    "timings.json",
}
_OF_TIME = {"seconds", SEAL}
_AFTER_THE_END = (
    "finished.json",
    "comparison.json",
    "report.html",
    "before_after.png",
    "before_after.txt",
)


@attrs.frozen
class Scene:
    """A folder with all that the tries copy from."""

    # It has `models`, `run.yaml`, `evaluation.yaml`, a `finished` run, the same one as if `stopped`
    # before its last step, and an evaluation `evaluated` of the finished one.
    folder: Path

    @property
    def run_yaml(self) -> str:
        """The configuration of a run; its folder is to be typed."""
        return str(self.folder / "run.yaml")

    @property
    def evaluation_yaml(self) -> str:
        """The configuration of an evaluation; its folder is to be typed."""
        return str(self.folder / "evaluation.yaml")

    def copy(self, name: str, to: Path) -> Path:
        """Copy what an earlier process left."""
        return Path(shutil.copytree(self.folder / name, to, symlinks=True))


def run(typed: Sequence[str], log: Path, **named: Any) -> Ended:
    """Run `flowbp` in a fork."""
    return forked(command(run_main, typed), log, **{"limit": LIMIT, **named})


def evaluate(typed: Sequence[str], log: Path, **named: Any) -> Ended:
    """Run `flowbp-eval` in a fork."""
    return forked(command(evaluate_main, typed), log, **{"limit": LIMIT, **named})


@attrs.frozen
class Use:
    """What is done with a folder `of` the scene; what is `within` a part of it is damaged."""

    name: str
    of: str
    within: str
    # Besides the configuration; `{place}` is the folder, `{fresh}` a new one.
    typed: tuple[str, ...]
    act: Callable[..., Ended]

    def __call__(self, scene: Scene, place: Path, folder: Path) -> Ended:
        """Use a folder; `folder` is for the rest."""
        yaml = scene.run_yaml if self.act is run else scene.evaluation_yaml
        words = [each.replace("{place}", str(place)) for each in self.typed]
        words = [each.replace("{fresh}", str(folder / "fresh")) for each in words]
        return self.act([yaml, *words], folder / "log")

    def result(self, place: Path, folder: Path) -> Path:
        """Where what comes of it is."""
        return folder / "fresh" if any("{fresh}" in each for each in self.typed) else place


USES = (
    Use("resume", "stopped", ".", (*RUN, "run.folder={place}", "--resume"), run),
    Use(
        "train on",
        "finished",
        ".",
        ("training.steps=5", *RUN[1:], "run.folder={place}", "--resume"),
        run,
    ),
    Use("evaluate on", "evaluated", ".", ("evaluation.folder={place}", "--resume"), evaluate),
    Use(
        "evaluate",
        "finished",
        "checkpoints/final",
        ("evaluation.folder={fresh}", "models.aligned.checkpoint={place}/checkpoints/final"),
        evaluate,
    ),
)


def made(folder: Path) -> Scene:
    """Make a scene in an empty folder, and import here all that its processes imported.

    Its folder `reference` gets what comes of each use of what is undamaged.
    """
    scene, log = Scene(folder), folder / "scene.log"
    torch.set_num_threads(1)
    _sound(forked(lambda: bool(save_models(folder / "models")) - 1, log, limit=LIMIT))
    (folder / "run.yaml").write_text(
        CONFIGURATION.format(folder=folder / "run", models=folder / "models")
    )
    (folder / "evaluation.yaml").write_text(EVALUATION.format(folder=folder))
    typed = [scene.run_yaml, *RUN, f"run.folder={folder / 'finished'}"]
    _sound(forked(_listing(command(run_main, typed), folder), log, limit=LIMIT))
    _import(folder)
    stopped = scene.copy("finished", folder / "stopped")
    shutil.rmtree(stopped / "checkpoints" / "final")
    for name in _AFTER_THE_END:
        (stopped / name).unlink()
    call = command(evaluate_main, [scene.evaluation_yaml])
    _sound(forked(_listing(call, folder), log, limit=LIMIT))
    _import(folder)
    for use in USES:
        place = scene.copy(use.of, folder / "reference" / use.name)
        _sound(use(scene, place, folder))
        if use.result(place, folder) != place:
            shutil.rmtree(place)
            shutil.move(use.result(place, folder), place)
    return scene


def _sound(ended: Ended) -> None:
    if ended.code != 0:
        raise RuntimeError(f"the scene could not be made: {ended.said}")


def _listing(call: Callable[[], int], folder: Path) -> Callable[[], int]:
    def listed() -> int:
        code = call()
        (folder / "modules.json").write_text(json.dumps(list(sys.modules)))
        return code

    return listed


def _import(folder: Path) -> None:
    # A module that is imported in a fork is imported again in the next.
    for name in json.loads((folder / "modules.json").read_text()):
        if name not in sys.modules and not name.startswith("__"):
            with contextlib.suppress(Exception):
                importlib.import_module(name)


def outcome(folder: Path) -> dict[str, Any]:
    """All that a run or an evaluation left, by path, but what tells of the clock or the folder."""
    found: dict[str, Any] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.name in _OWN or name.startswith("tensorboard/") or not path.is_file():
            continue
        content = path.read_bytes()
        found[name] = content
        if path.suffix in (".json", ".jsonl"):
            with contextlib.suppress(ValueError, RecursionError):
                lines = content.splitlines() if path.suffix == ".jsonl" else [content]
                found[name] = [_timeless(json.loads(line)) for line in lines]
    return found


def _timeless(tree: Any) -> Any:
    if isinstance(tree, dict):
        return {name: _timeless(item) for name, item in tree.items() if name not in _OF_TIME}
    return [_timeless(item) for item in tree] if isinstance(tree, list) else tree
