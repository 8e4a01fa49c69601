"""What a run is about to do, in a dozen lines."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Mapping, Sequence, Sized
from typing import Any

from flowbp.adapters import MODEL_GRID, Backbone, Lora
from flowbp.configuration import Component, plain, read_text
from flowbp.evaluation import Sampling as EvaluationSampling
from flowbp.evaluation import counted
from flowbp.prompts import Listed
from flowbp.run.drawing import LEGEND, drawn, joined, reading, weighted
from flowbp.settings import EmbeddingSettings, RunSettings, Settings, resolved
from flowbp.settings.checks import evaluation_sampling, example_plan
from flowbp.settings.evaluation import EvaluationSettings
from flowbp.settings.intervals import interval
from flowbp.training import Sampling, cost

_WIDTH = 100


def overview(settings: Settings, trained: int, *, replaced: Sequence[str] = ()) -> str:
    """Say what a run would do: parts, an example of the method's draw, cost, prompts, folder.

    The draw is on a grid of shift 3 where the sampling's is the model's, which is only known once
    that is loaded; a method draws anew in every step.

    Args:
        settings: of the run.
        trained: how many parameters are trained.
        replaced: names of the providers that were overridden from Python.

    Returns:
        The lines, without a newline at the end.

    Example:
        See `flowbp.run.main`, which prints it.
    """
    tree = plain(read_text(resolved(settings, defaults=False), "the settings"))
    lines = {
        "backbone": _words(tree["backbone"]),
        "trained": f"{trained:,} parameters, {_tuning(tree['tuning'])}",
        "reward": f"{_words(tree['reward'])}, loss {_words(tree['loss'])}",
        "judge": _words(tree["judge"]) if tree["judge"] else "none",
        "replaced": ", ".join(replaced),
        "prompts": _words(tree["prompts"]) + _counted(settings.prompts),
        "embeddings": told_embeddings(settings.embeddings),
        "evaluation": _evaluation(settings),
        **_method(settings, _words(tree["method"])),
        "optimizer": f"{_words(tree['optimizer'])}, schedule {_words(tree['schedule'])}",
        "training": _pairs(tree["training"]),
        "anchor": _anchor(settings),
        "folder": str(settings.run.folder),
    }
    return "\n".join(_line(name, text) for name, text in lines.items() if text)


def _line(name: str, text: str) -> str:
    line = f"  {name:<12}{text}"
    # Blanks are a part of the drawing, and wrapping would eat them.
    if name == "example":
        return line
    return textwrap.fill(
        line,
        _WIDTH,
        subsequent_indent=" " * 14,
        # Paths and ids stay whole, to be copied.
        break_on_hyphens=False,
        break_long_words=False,
    )


def _method(settings: Settings, words: str) -> dict[str, str]:
    plan, steps = example_plan(settings), settings.sampling.steps
    sampling, batch = settings.sampling, settings.batching.total
    spent = cost(plan, sampling, anchored=settings.anchor is not None)
    return {
        "method": words,
        "example": drawn(plan, steps),
        "": LEGEND,
        " ": f"{joined(plan)}; weights {weighted(plan)}",
        "  ": f"the reward reads {reading(plan)}",
        "sampling": f"{counted(steps, 'step')}{told_grid(sampling)}, guidance "
        f"{sampling.guidance:g}, {sampling.height}x{sampling.width} pixels",
        "portions": f"{counted(settings.batching.samples, 'sample')} at a time forward, pull "
        f"{settings.batching.pull}, decode {settings.batching.decode}"
        f"{_checkpointing(settings.backbone)}{_compiled(settings.run)}",
        "each step": f"{counted(batch, 'sample')}, each with {spent.forward} velocity evaluations "
        f"forward and {spent.backward} backward in this example",
    }


def _checkpointing(backbone: Component[Backbone]) -> str:
    # A model of a third party need not know it.
    name = "gradient_checkpointing"
    taken = {} if backbone.ready else inspect.signature(backbone.target).parameters
    if name not in taken:
        return ""
    wanted = backbone.arguments.get(name, taken[name].default)
    return f", gradient checkpointing {wanted if wanted == 'auto' else 'on' if wanted else 'off'}"


def _compiled(run: RunSettings) -> str:
    if not run.compile:
        return ""
    return f", compiled, blocks keep {run.kept_activations:.0%} of their activations"


def _tuning(tree: Mapping[str, Any]) -> str:
    # What is not set is the model's or the file's own choice.
    return _words({key: item for key, item in tree.items() if item is not None})


def _anchor(settings: Settings) -> str:
    if settings.anchor is None:
        return ""
    plan = example_plan(settings)
    without, spent = (cost(plan, settings.sampling, anchored=each) for each in (False, True))
    adapted = isinstance(settings.tuning, Lora)
    reference = "base model without adapter" if adapted else "model before training"
    return (
        f"strength {settings.anchor.strength:g}, towards the {reference}; "
        f"{spent.forward - without.forward} of the forward evaluations are the reference's"
    )


def _evaluation(settings: Settings) -> str:
    evaluation, sampling = settings.evaluation, evaluation_sampling(settings)
    if evaluation is None or sampling is None:
        return "none"
    return (
        f"{counted(len(evaluation.prompts.prompts()), 'held-out prompt')} before and after, "
        f"{counted(sampling.steps, 'step')}{told_grid(sampling) if evaluation.grid else ''}, "
        f"guidance {sampling.guidance:g}, noise seed {evaluation.noise_seed}"
        f"{_left_out(evaluation.prompts)}{_inside(settings, evaluation)}"
    )


def _inside(settings: Settings, evaluation: EvaluationSettings) -> str:
    every, stop = interval(settings), settings.early_stop
    if every is None:
        return ""
    which = "all" if evaluation.count is None else str(evaluation.count)
    besides = f", {_words(list(evaluation.metrics))} besides" if evaluation.metrics else ""
    told = f"; every {counted(every, 'step')} on {which} of them{besides}"
    if stop is None:
        return told
    return f"{told}; ends after {stop.patience} without a rise of {stop.metric}"


def told_grid(sampling: EvaluationSampling | Sampling) -> str:
    """Say which sigmas the steps have.

    Args:
        sampling: of a run, or of an evaluation.

    Returns:
        A clause to come after the number of steps.

    Example:
        >>> from flowbp.adapters import EvenGrid
        >>> told_grid(EvaluationSampling(steps=25, height=8, width=8, grid=EvenGrid(shift=3.0)))
        ' on the grid even (shift 3.0), last sigma 0.1111'
    """
    if sampling.grid == MODEL_GRID:
        return " on the model's own grid"
    tree = plain(read_text(resolved(sampling), "the settings"))["grid"]
    words = _words({k: "the model's" if v is None else v for k, v in tree.items()})
    known = sampling.grid.known(sampling.steps)
    return f" on the grid {words}" + (
        "" if known is None else f", last sigma {known[-2].item():.4f}"
    )


def told_embeddings(settings: EmbeddingSettings) -> str:
    """Say where text embeddings are kept.

    Args:
        settings: of a run, or of an evaluation.

    Returns:
        A clause.

    Example:
        >>> told_embeddings(EmbeddingSettings(folder=None))
        'in memory, prompts encoded one at a time'
    """
    place = "in memory" if settings.folder is None else f"in {settings.folder}, shared by all runs"
    together = "one at a time" if settings.batch == 1 else f"{settings.batch} together"
    return f"{place}, prompts encoded {together}"


def _counted(source: object) -> str:
    count = f", {len(source):,} of them" if isinstance(source, Sized) else ""
    return count + _left_out(source)


def _left_out(source: object) -> str:
    account = source.account() if isinstance(source, Listed) else ""
    return f"; {account}" if account else ""


def _words(value: Any) -> str:
    if isinstance(value, list):
        return f"[{', '.join(map(_words, value))}]"
    if not isinstance(value, Mapping):
        return "none" if value is None else str(value)
    rest = _pairs({key: item for key, item in value.items() if key != "name"})
    if "name" not in value:
        return f"({rest})"
    return f"{value['name']} ({rest})" if rest else str(value["name"])


def _pairs(mapping: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {_words(item)}" for key, item in mapping.items())
