"""What a run leaves behind in its folder."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import torch

from flowbp.adapters.lora_layers import adapter_layers
from flowbp.configuration import read_sealed, sealed
from flowbp.container import RunContainer
from flowbp.core._validators import integer
from flowbp.evaluation import own_facts, sampling_facts
from flowbp.files import write_whole
from flowbp.run.before import BEFORE, BEFORE_PICTURES
from flowbp.run.shell import listed
from flowbp.run.timings import TIMINGS
from flowbp.settings import free_folder, occupied, resolved
from flowbp.settings.checks import calibration_sampling

CONFIGURATION, COMPARISON, REPORT = "configuration.yaml", "comparison.json", "report.html"
PICTURE, PICTURE_PROMPTS, FINISHED = "before_after.png", "before_after.txt", "finished.json"

DESCRIPTIONS = {
    REPORT: "before and after side by side; open it in a browser",
    PICTURE: "some pictures, before above after, chosen evenly, whatever their outcome",
    PICTURE_PROMPTS: "the prompts of its columns",
    COMPARISON: "every prompt's reward and verdict, before and after",
    BEFORE: "the evaluation before training",
    BEFORE_PICTURES: "its pictures, for a run that is resumed",
    "calibration.json": "the scales of the reward's parts",
    "cut_prompts.jsonl": "the prompts that the text encoders do not read to their end",
    CONFIGURATION: "all settings, defaults written out",
    "metrics.jsonl": "the figures of every step",
    "portions.jsonl": "the portions that were chosen or lowered to fit into memory",
    "evaluations.jsonl": "the figures of the evaluations inside the run",
    "tensorboard": "those figures for tensorboard --logdir",
    TIMINGS: "the seconds of each phase, session by session",
    "samples": "pictures during training",
    "checkpoints/final": "the trained model after the last step, as its backbone saves it",
}
"""The files of a run's folder that its end tells of."""


def replaced(container: RunContainer) -> Sequence[str]:
    """The names of the providers that were overridden from Python.

    Args:
        container: of the run.

    Returns:
        Names, sorted.

    Example:
        See `flowbp.run.execution.execute`.
    """
    providers = container.providers.items()
    return sorted(n for n, provider in providers if provider.overridden and n != "settings")


def configuration_text(container: RunContainer) -> str:
    """The resolved configuration, with comments: what Python replaced, what the model decides.

    Args:
        container: of the run.

    Returns:
        YAML.

    Example:
        See `flowbp.run.execution.execute`.
    """
    return heading(container) + resolved(container.settings()) + _found(container)


def _found(container: RunContainer) -> str:
    """What no setting says, because the model or the machine decides it."""
    settings, model = container.settings(), container.tuned()
    facts = {
        "device": str(container.device()),
        "threads": str(torch.get_num_threads()),
        "sigmas": sampling_facts(model, calibration_sampling(settings))["sigmas"],
        **own_facts(model),
        **_adapter(model),
    }
    lines = "".join(f"#   {name}: {text}\n" for name, text in facts.items())
    return f"\n# What was in effect, as the model and the machine had it:\n{lines}"


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


def heading(container: RunContainer) -> str:
    """The comment above a resolved configuration that says what Python replaced.

    Args:
        container: of the run.

    Returns:
        A line, or nothing.

    Example:
        See `configuration_text`.
    """
    names = replaced(container)
    return f"# Replaced from Python in this run: {', '.join(names)}.\n" if names else ""


def claim(folder: Path, configuration: str) -> None:
    """Write the first file into a run's folder.

    Args:
        folder: new or empty, but for what `locked` makes.
        configuration: the text of `configuration.yaml`.

    Raises:
        FileExistsError: the folder is not empty.

    Example:
        >>> from tempfile import mkdtemp
        >>> folder = Path(mkdtemp())
        >>> claim(folder, "run: {}")
        >>> [path.name for path in folder.iterdir()]
        ['configuration.yaml']
    """
    if occupied(folder):
        raise FileExistsError(
            f"`run.folder` {folder} is not empty, and nothing saved is ever overwritten; name "
            f"another, such as run.folder={free_folder(folder)}"
        )
    write_whole(folder / CONFIGURATION, configuration)


@attrs.frozen(kw_only=True)
class Finished:
    """How a run ended.

    Args:
        steps: optimizer steps that were done.
        ended_early: whether a held-out figure ended it.

    Example:
        See `write_finished`.
    """

    steps: int = attrs.field(validator=integer(0))
    ended_early: bool


def write_finished(folder: Path, steps: int, *, ended_early: bool = False) -> None:
    """Write `finished.json`, whose being there says that nothing is left to do.

    Args:
        folder: of the run.
        steps: optimizer steps that were done.
        ended_early: whether a held-out figure ended the run.

    Raises:
        OSError: the file cannot be written.

    Example:
        >>> from tempfile import mkdtemp
        >>> folder = Path(mkdtemp())
        >>> write_finished(folder, 100)
        >>> read_finished(folder)
        Finished(steps=100, ended_early=False)
    """
    finished = Finished(steps=steps, ended_early=ended_early)
    write_whole(folder / FINISHED, sealed(attrs.asdict(finished)))


def read_finished(folder: Path) -> Finished | None:
    """Read what `write_finished` wrote.

    Args:
        folder: of the run.

    Returns:
        It; None if there is something left to do.

    Raises:
        DamagedError: the file is not as it was written.

    Example:
        See `write_finished`.
    """
    path = folder / FINISHED
    if not path.exists():
        return None
    return read_sealed(Finished, path, cure="remove that file, and what is left to do is done")


def listing(folder: Path, besides: Mapping[str, str] | None = None) -> str:
    """What there is in a run's folder, a line each.

    Args:
        folder: of the run.
        besides: descriptions of what only this run has, by name.

    Returns:
        The lines, without a newline at the end.

    Example:
        >>> from tempfile import mkdtemp
        >>> folder = Path(mkdtemp())
        >>> (folder / "samples").mkdir()
        >>> listing(folder)
        '  samples            pictures during training'
    """
    return listed(folder, {**DESCRIPTIONS, **(besides or {})})
