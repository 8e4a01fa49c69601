"""The model card of a checkpoint: its README.md, in the form of the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import attrs

import flowbp
from flowbp.adapters import DiffusersBackbone, WithLoading
from flowbp.cli.overview import pairs, words
from flowbp.cli.run.built_run import BuiltRun
from flowbp.cli.run.card_base import BaseModel
from flowbp.cli.run.card_metrics import Measured, held_out_parts
from flowbp.cli.run.card_text import code, public_values
from flowbp.cli.run.results import Ending, sampling_advice
from flowbp.evaluation import (
    Comparison,
    HeldOutMeasure,
    counted,
    environment,
)
from flowbp.extras import require
from flowbp.training import Checkpoints, HeldOutEvaluation
from flowbp.training.checkpoint import FINAL, replace_card

_HERE = "path or hub id of this folder"
"""What the lines that load a model have in place of its folder."""


def with_cards(checkpoints: Checkpoints, run: BuiltRun) -> Checkpoints:
    """The checkpoints of a run, each of which gets a card."""
    return attrs.evolve(checkpoints, card=partial(model_card, run))


def complete_card(
    run: BuiltRun, comparison: Comparison, inside: HeldOutEvaluation | None, end: Ending
) -> None:
    """Write what was measured into the card of the model that it was measured of."""
    name = FINAL if end.judged == end.done else end.checkpoint or FINAL
    measure = None if inside is None else inside.measure
    prompts = measure.prompts if isinstance(measure, HeldOutMeasure) else ()
    measured = Measured(comparison, run.history.held_out, prompts, end)
    place = run.settings.run.folder / "checkpoints" / name
    replace_card(place, lambda folder: model_card(run, folder, end.judged, measured))


def model_card(run: BuiltRun, folder: Path, step: int, measured: Measured | None = None) -> str:
    """The card of the model in a folder, after an optimizer step.

    Places on this machine are in it by their last name alone.
    """
    hub, settings = require("huggingface_hub"), run.settings
    base, is_lora = BaseModel.of(run), _is_lora(run)
    licence = base.licence()
    data = hub.ModelCardData(
        base_model=base.published,
        base_model_relation=base.published and ("adapter" if is_lora else "finetune"),
        library_name="diffusers" if isinstance(run.tuned, DiffusersBackbone) else None,
        pipeline_tag="text-to-image",
        tags=[*(["lora"] if is_lora else []), "flow-matching", "reward-alignment", "flowbp"],
        **licence,
    )
    what = "A LoRA for" if is_lora else "A fine-tuned version of"
    reward = "a reward of its own" if "reward" in run.replaced else settings.reward.name
    parts = [
        f"---\n{data.to_yaml()}\n---",
        f"# {base.title}, aligned with {reward}",
        f"{what} {base.described}: the text-to-image model was aligned by back-propagating a "
        f"reward through its sampler, with flowbp {flowbp.__version__}. These are the weights "
        f"after step {step} of {settings.training.steps}.",
        *_licence_note(base, licence),
        "## Loading it",
        _loading(run, folder, base),
        "## Training",
        *_replaced(run.replaced),
        "\n".join(f"- {name}: {text}" for name, text in _settings(run).items()),
        "## Held-out prompts, before and after",
        *held_out_parts(run, measured),
        "## Versions",
        _versions(run, is_lora=is_lora),
    ]
    return "\n\n".join(parts) + "\n"


def _is_lora(run: BuiltRun) -> bool:
    # Without LoRA peft need not be installed.
    return bool(getattr(getattr(run.tuned, "module", None), "peft_config", None))


def _licence_note(base: BaseModel, licence: Mapping[str, str]) -> Iterator[str]:
    if licence:
        name = licence.get("license_name", licence["license"])
        yield f"Licence: {code(name)}, that of the base."
    elif base.file is not None:
        yield (
            "Licence: not known to flowbp, as the transformer came from a single file; add that of "
            "its weights to the head of this file before you share it."
        )
    else:
        yield (
            f"Licence: not known to flowbp, as no card of {code(base.title)} with a `license` was "
            "found; add the licence of the base to the head of this file before you share it."
        )


def _loading(run: BuiltRun, folder: Path, base: BaseModel) -> str:
    model = run.tuned
    if not isinstance(model, WithLoading):
        return "The backbone that was trained does not say how others load what it saves."
    lines = model.loading(folder) + sampling_advice(model, run.settings)
    lines = lines.replace(repr(str(folder)), repr(_HERE)).replace(str(folder), _HERE)
    if base.source is not None and repr(base.source) in lines:
        if base.is_own:
            lines = f"from flowbp.shapes.embedded import base_folder\n{lines}"
        name = "base_folder()" if base.is_own else repr(base.title)
        lines = lines.replace(repr(base.source), name)
    if base.file is not None:
        lines = lines.replace(repr(base.file), repr(Path(base.file).name))
    return f"```python\n{lines}\n```"


def _replaced(names: Sequence[str]) -> Iterator[str]:
    if names:
        yield (
            f"Replaced from Python in this run, whatever is said of them below: {', '.join(names)}."
        )


def _settings(run: BuiltRun) -> Mapping[str, str]:
    """The settings that matter, in words."""
    settings = run.settings
    tree = public_values(settings)
    tuning = {key: item for key, item in tree["tuning"].items() if item is not None}
    samples = settings.batching.total(run.ranks.size)
    found = {
        "base": words(tree["backbone"]),
        "trained": words(tuning),
        "reward": f"{words(tree['reward'])}, loss {words(tree['loss'])}",
        "method": words(tree["method"]),
        "prompts": words(tree["prompts"]),
        "training": pairs(tree["training"]),
        "batch": f"{counted(samples, 'sample')} in each optimizer step",
        "optimizer": f"{words(tree['optimizer'])}, schedule {words(tree['schedule'])}",
        "sampling": pairs({key: item for key, item in tree["sampling"].items() if item != ""}),
        "anchor": pairs(tree["anchor"]) if tree["anchor"] else "none",
        "seed": str(settings.run.seed),
    }
    return {name: code(text) for name, text in found.items()}


def _versions(run: BuiltRun, *, is_lora: bool) -> str:
    packages = ("torch", "diffusers", "transformers", *(("peft",) if is_lora else ()))
    found = environment(run.device, run.settings.run.seed, packages=packages)
    return ", ".join(f"{name} {found[name]}" for name in ("flowbp", "python", *packages))
