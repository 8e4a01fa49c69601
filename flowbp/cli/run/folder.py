"""The files of a run's folder."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import torch
from torch import Tensor

from flowbp.adapters import Backbone
from flowbp.adapters.lora_layers import adapter_layers
from flowbp.cli.timings import TIMINGS
from flowbp.config import DamagedError, read_sealed, sealed
from flowbp.evaluation import Evaluation, EvaluationFile, evaluation_tree, own_facts, sampling_facts
from flowbp.extras import require
from flowbp.files import digests, write_atomically
from flowbp.settings import Settings, free_folder, occupied, resolved
from flowbp.settings.folder import FINISHED
from flowbp.settings.schema import calibration_sampling
from flowbp.validators import integer

CONFIGURATION, COMPARISON, REPORT = "configuration.yaml", "comparison.json", "report.html"
PICTURE, PICTURE_PROMPTS = "before_after.png", "before_after.txt"

BEFORE, BEFORE_PICTURES = "before.json", "before.safetensors"

DESCRIPTIONS = {
    REPORT: "before and after side by side; open it in a browser",
    PICTURE: "some pictures, before above after, evenly spaced in the list, whatever their outcome",
    PICTURE_PROMPTS: "the prompts of before_after.png, column by column",
    COMPARISON: "every prompt's reward and what the judge said, before and after",
    BEFORE: "the evaluation before training",
    BEFORE_PICTURES: "the pictures of before.json, for a run that is resumed",
    "calibration.json": "the scales of the reward's parts",
    "cut_prompts.jsonl": "the prompts that the text encoders do not read to their end",
    CONFIGURATION: "all settings, defaults written out",
    "metrics.jsonl": "the metrics of every step",
    "portions.jsonl": "the portions that were chosen or lowered to fit into memory",
    "evaluations.jsonl": "the metrics of the evaluations inside the run",
    "tensorboard": "those metrics for tensorboard --logdir",
    "wandb": "those metrics for wandb sync",
    TIMINGS: "the seconds of each phase, session by session",
    "samples": "pictures during training",
    "checkpoints/final": "the trained model after the last step, as its backbone saves it, and its "
    "model card",
}
"""The files that a run lists at its end."""


def configuration_text(
    settings: Settings,
    model: Backbone,
    device: torch.device,
    replaced: Sequence[str],
    *,
    processes: int = 1,
) -> str:
    """The resolved configuration, with comments: what Python replaced, what the model decides."""
    facts = {
        "device": str(device),
        "threads": str(torch.get_num_threads()),
        **({"processes": str(processes)} if processes > 1 else {}),
        "sigmas": sampling_facts(model, calibration_sampling(settings))["sigmas"],
        **own_facts(model),
        **_adapter(model),
    }
    lines = "".join(f"#   {name}: {text}\n" for name, text in facts.items())
    return (
        f"{replaced_heading(replaced)}{resolved(settings)}\n"
        f"# What the model and the machine determined:\n{lines}"
    )


def _adapter(model: Any) -> Mapping[str, Any]:
    """What the family or the `start` of an adapter decides."""
    module = getattr(model, "module", None)
    # Without LoRA peft need not be installed.
    if not isinstance(module, torch.nn.Module) or not hasattr(module, "peft_config"):
        return {}
    layers = adapter_layers(module)
    ends = {re.sub(r"^\w+\.\d+\.", "", name) for name in layers}
    return {
        "lora_rank": sorted({rank for each in layers.values() for rank in each.r.values()}),
        "lora_scale": sorted({s for each in layers.values() for s in each.scaling.values()}),
        "lora_layers": f"{len(layers)}, {', '.join(sorted(ends))}",
    }


def replaced_heading(replaced: Sequence[str]) -> str:
    """The comment above a resolved configuration that says what Python replaced."""
    return f"# Replaced from Python in this run: {', '.join(replaced)}.\n" if replaced else ""


def claim_folder(folder: Path, configuration: str) -> None:
    """Write the first file into a run's folder."""
    if occupied(folder):
        raise FileExistsError(
            f"`run.folder` {folder} is not empty, and nothing saved is ever overwritten; name "
            f"another, such as run.folder={free_folder(folder)}"
        )
    write_atomically(folder / CONFIGURATION, configuration)


@attrs.frozen(kw_only=True)
class Finished:
    """How a run ended."""

    steps: int = attrs.field(validator=integer(0))
    ended_early: bool


def write_finished(folder: Path, steps: int, *, ended_early: bool = False) -> None:
    """Write `finished.json`, whose being there says that nothing is left to do."""
    finished = Finished(steps=steps, ended_early=ended_early)
    write_atomically(folder / FINISHED, sealed(attrs.asdict(finished)))


def read_finished(folder: Path) -> Finished | None:
    """Read what `write_finished` wrote."""
    path = folder / FINISHED
    if not path.exists():
        return None
    return read_sealed(Finished, path, cure="remove that file, and the run completes what is left")


_CURE = f"remove {BEFORE} and {BEFORE_PICTURES}, and the evaluation before training is made again"


@attrs.frozen(kw_only=True)
class _Before(EvaluationFile):
    """What `before.json` holds: the evaluation, and the digest of its pictures' file."""

    pictures: str


def write_before(folder: Path, evaluation: Evaluation, pictures: Tensor) -> None:
    """Write `before.json` and, as they are in float32, its pictures to `before.safetensors`."""
    # Fewer bits would make the report of a run that went on differ.
    content = require("safetensors.torch").save({"pictures": pictures.contiguous()})
    write_atomically(folder / BEFORE_PICTURES, content)
    tree = evaluation_tree(evaluation) | {"pictures": hashlib.sha256(content).hexdigest()}
    # Last, because that it is there says that both are.
    write_atomically(folder / BEFORE, sealed(tree))


def read_before(folder: Path) -> tuple[Evaluation, Tensor] | None:
    """Read what `write_before` wrote."""
    text, tensors = folder / BEFORE, folder / BEFORE_PICTURES
    if not text.exists():
        return None
    found = read_sealed(_Before, text, cure=_CURE)
    try:
        same = digests(folder, [BEFORE_PICTURES])[BEFORE_PICTURES] == found.pictures
    except OSError as error:
        problem = f"cannot be read ({error.strerror or error})"
        raise DamagedError(tensors, problem, _CURE) from error
    if not same:
        raise DamagedError(tensors, "is damaged: it has changed since it was written", _CURE)
    pictures = require("safetensors.torch").load(tensors.read_bytes())["pictures"]
    if len(pictures) != len(found.records):
        raise DamagedError(tensors, f"has {len(pictures)} pictures of {len(found.records)}", _CURE)
    return found.evaluation(), pictures
