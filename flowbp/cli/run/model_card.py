"""The model card of a checkpoint: its README.md, in the form of the Hugging Face hub."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import attrs

import flowbp
from flowbp.adapters import DiffusersBackbone, WithLoading
from flowbp.cli.overview import pairs, words
from flowbp.cli.run.built_run import BuiltRun
from flowbp.cli.run.results import Ending, sampling_advice
from flowbp.evaluation import (
    Comparison,
    HeldOut,
    HeldOutMeasure,
    Scale,
    ScoreRow,
    Scores,
    counted,
    environment,
)
from flowbp.evaluation.comparison import ACCURACY
from flowbp.evaluation.reward_metrics import WHOLE
from flowbp.evaluation.tables import Line, metric_lines
from flowbp.extras import require
from flowbp.hub import address, cached_file
from flowbp.place import is_hub_id, on_disk
from flowbp.settings import resolved_values
from flowbp.settings.unloaded_model import named_model
from flowbp.significant_digits import written
from flowbp.training import Checkpoints, HeldOutEvaluation, HeldOutMetrics
from flowbp.training.checkpoint import FINAL, replace_card

_HERE = "path or hub id of this folder"
"""What the lines that load a model have in place of its folder."""

_MOST = 400
"""Characters of a setting that are shown; a list of prompts may be long."""

# A folder of the hub's cache has the id in its path.
_CACHED = re.compile(r"models--([^/]+)--([^/]+)/snapshots/[^/]+/?$")
_OWN_FILES = Path(flowbp.__file__).parent


@attrs.frozen(eq=False)
class Measured:
    """What a run has measured of the model that its results are of."""

    comparison: Comparison
    # The evaluations inside the run, and the prompts that they are of.
    inside: Sequence[HeldOutMetrics]
    prompts: Sequence[HeldOut]
    end: Ending


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
    base, is_lora = _Base.of(run), _is_lora(run)
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
        *_measured(run, measured),
        "## Versions",
        _versions(run, is_lora=is_lora),
    ]
    return "\n\n".join(parts) + "\n"


@attrs.frozen
class _Base:
    """The model before training."""

    # As the settings name it; None where they do not.
    source: str | None
    title: str
    revision: str | None = None
    # Of the transformer, where it is not the source's.
    file: str | None = None

    @classmethod
    def of(cls, run: BuiltRun) -> _Base:
        if "backbone" in run.replaced:
            return cls(None, "A backbone of its own")
        backbone = run.settings.backbone
        model = named_model(backbone)
        source = backbone.arguments.get("source") if model is None else model.source
        if source is None:
            return cls(None, backbone.name)
        place, file = str(source), backbone.arguments.get("transformer")
        title = backbone.name if _is_own(place) else public(place)
        revision = backbone.arguments.get("revision")
        return cls(place, title, revision, None if file is None else str(file))

    @property
    def place(self) -> Path | None:
        """Its folder, where it is on this machine."""
        return None if self.source is None else on_disk(self.source)

    @property
    def hub_id(self) -> str | None:
        """Its id; the hub refuses a card whose `base_model` is none, such as a local folder."""
        return self.title if self.source is not None and is_hub_id(self.title) else None

    @property
    def published(self) -> str | None:
        """The id of the very weights that were trained."""
        return self.hub_id if self.file is None else None

    @property
    def is_own(self) -> bool:
        """Whether it comes with flowbp."""
        return self.source is not None and _is_own(self.source)

    @property
    def described(self) -> str:
        if self.file is not None:
            rest = attrs.evolve(self, file=None).described
            return f"the transformer in {_code(Path(self.file).name)}, and all else of {rest}"
        if self.hub_id is not None:
            return f"[{self.title}]({address(self.title)})"
        if self.is_own:
            return "the small model of coloured shapes that comes with flowbp"
        local = "" if self.place is None else ", a local folder"
        return f"{_code(self.title)}{local}"

    def licence(self) -> dict[str, str]:
        """The keys of its own card that say under what licence it is; none if none are known."""
        if self.file is not None:
            return {}
        if self.is_own:
            return {"license": "apache-2.0"}
        if self.place is not None:
            card: Path | None = self.place / "README.md"
        else:
            card = None
            if self.hub_id is not None:
                card = cached_file(self.hub_id, "README.md", revision=self.revision)
        if card is None or not card.is_file():
            return {}
        try:
            data = require("huggingface_hub").metadata_load(card) or {}
        # Anyone may have written it, as anything.
        except Exception:
            return {}
        if not isinstance(data.get("license"), str):
            return {}
        names = ("license", "license_name", "license_link")
        found = {name: data[name] for name in names if isinstance(data.get(name), str)}
        link = found.get("license_link")
        if link is not None and "://" not in link:
            # It is a file beside that card, not beside this one.
            del found["license_link"]
            if self.hub_id is not None:
                found["license_link"] = (
                    f"{address(self.hub_id)}/blob/{self.revision or 'main'}/{link}"
                )
        return found


def _is_own(source: str) -> bool:
    return Path(source).is_relative_to(_OWN_FILES)


def public(text: str) -> str:
    """A text of the settings; a place on this machine by its last name, or by its hub id."""
    if (cached := _CACHED.search(text)) is not None:
        return "/".join(cached.groups())
    if not (text.startswith(("/", "~")) or _is_there(text)):
        return text
    return Path(os.path.abspath(Path(text).expanduser())).name


def _is_there(text: str) -> bool:
    try:
        return on_disk(text) is not None
    # A text may be too long for a name, or have a zero in it.
    except (OSError, RuntimeError, ValueError):
        return False


def _public_tree(tree: Any) -> Any:
    if isinstance(tree, Mapping):
        return {key: _public_tree(item) for key, item in tree.items()}
    if isinstance(tree, list):
        return [_public_tree(item) for item in tree]
    return public(tree) if isinstance(tree, str) else tree


def _is_lora(run: BuiltRun) -> bool:
    # Without LoRA peft need not be installed.
    return bool(getattr(getattr(run.tuned, "module", None), "peft_config", None))


def _licence_note(base: _Base, licence: Mapping[str, str]) -> Iterator[str]:
    if licence:
        name = licence.get("license_name", licence["license"])
        yield f"Licence: {_code(name)}, that of the base."
    elif base.file is not None:
        yield (
            "Licence: not known to flowbp, as the transformer came from a single file; add that of "
            "its weights to the head of this file before you share it."
        )
    else:
        yield (
            f"Licence: not known to flowbp, as no card of {_code(base.title)} with a `license` was "
            "found; add the licence of the base to the head of this file before you share it."
        )


def _loading(run: BuiltRun, folder: Path, base: _Base) -> str:
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
    tree = _public_tree(resolved_values(settings, defaults=False))
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
    return {name: _code(text) for name, text in found.items()}


def _code(text: str) -> str:
    line = " ".join(text.replace("`", "'").split())
    return f"`{line if len(line) <= _MOST else f'{line[:_MOST]}…'}`"


def _measured(run: BuiltRun, measured: Measured | None) -> Iterator[str]:
    evaluation = run.settings.evaluation
    if evaluation is None:
        yield "The run evaluated none."
        return
    if measured is None:
        yield (
            "None measured of these weights: a run measures after training, of the model that its "
            "results are of."
        )
        return
    tree = _public_tree(resolved_values(run.settings, defaults=False))
    sampling = run.evaluation_sampling
    steps = "" if sampling is None else f", {sampling.steps} steps, guidance {sampling.guidance:g}"
    judge = ""
    if measured.comparison.before.judged:
        judge = f" `{ACCURACY}` is what the judge, {_code(words(tree['judge']))}, said."
    yield (
        f"Prompts: {_code(words(tree['evaluation']['prompts']))}, held out of training{steps}, "
        "each from the same noise before and after. Gains are means over prompts, with 95 % "
        f"intervals. `{WHOLE}` is what was trained on.{judge}"
    )
    yield _table(metric_lines(measured.comparison.scores))
    if measured.end.early:
        yield _note_of_early(measured.end)
    further, plain = _inside(measured)
    if further or plain:
        yield "Further metrics, by the evaluations inside the run:"
        yield _table(further, plain)


def _note_of_early(end: Ending) -> str:
    if not end.best:
        return "The run ended early, by a held-out metric; these are of its last model."
    return (
        f"The run ended early, and these are of its best model, that of step {end.best}. It was "
        "chosen by the held-out prompts that score it here, so these numbers are optimistic."
    )


_HEAD = ("", "before", "after", "gain, 95 % interval", "prompts")


def _table(lines: Sequence[Line], plain: Sequence[tuple[str, float, float]] = ()) -> str:
    rows: list[Sequence[str]] = [_HEAD, ("---", *["---:"] * (len(_HEAD) - 1))]
    for line in lines:
        change, count = line.written, line.paired.prompts
        # One prompt has no interval.
        gain = change.interval if count > 1 else change.gain
        points = " points" if line.unit.percent else ""
        rows.append((_cell(line.name), change.before, change.after, gain + points, str(count)))
    for name, before, after in plain:
        rows.append((_cell(name), written(before, 4), written(after, 4), "", ""))
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def _cell(text: str) -> str:
    return _code(text).replace("|", "\\|")


def _inside(
    measured: Measured,
) -> tuple[Sequence[Line], Sequence[tuple[str, float, float]]]:
    """What the metrics inside a run gained, and the means of those that have no number a prompt."""
    steps = {row.step: row for row in measured.inside}
    before, after = steps.get(0), steps.get(measured.end.judged)
    if before is None or after is None or before is after:
        return (), ()
    known = {*measured.comparison.scores.columns}
    names = [name for name in after.means if name in before.means and name not in known]
    paired = [
        name
        for name in names
        if {len(row.each.get(name, ())) for row in (before, after)} == {len(measured.prompts)}
    ]
    plain = [(n, before.means[n], after.means[n]) for n in names if n not in paired]
    if not (paired and measured.prompts):
        return (), plain
    rows = (
        ScoreRow(
            model=label,
            number=number,
            seed=0,
            prompt=prompt.text,
            kind=prompt.kind,
            values={name: found.each[name][number] for name in paired},
        )
        for label, found in (("before", before), ("after", after))
        for number, prompt in enumerate(measured.prompts)
    )
    scales = {name: Scale(sign=after.signs[name]) for name in paired if name in after.signs}
    return metric_lines(Scores(rows, scales=scales)), plain


def _versions(run: BuiltRun, *, is_lora: bool) -> str:
    packages = ("torch", "diffusers", "transformers", *(("peft",) if is_lora else ()))
    found = environment(run.device, run.settings.run.seed, packages=packages)
    return ", ".join(f"{name} {found[name]}" for name in ("flowbp", "python", *packages))
