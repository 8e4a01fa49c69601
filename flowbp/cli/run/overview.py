"""What a run is about to do, in a dozen lines, with a drawing of an example of the method."""

from __future__ import annotations

import inspect
import textwrap
from collections.abc import Sequence, Sized

from flowbp.adapters import Backbone, Lora
from flowbp.cli.overview import embeddings_text, grid_text, pairs, words
from flowbp.config import Component
from flowbp.core import Surrogate
from flowbp.evaluation import counted
from flowbp.prompts import TableSource
from flowbp.settings import RunSettings, Settings, resolved_values
from flowbp.settings.schema import (
    EvaluationSettings,
    evaluation_every,
    evaluation_sampling,
    example_surrogate,
)
from flowbp.settings.unloaded_model import rescales_guidance
from flowbp.significant_digits import written
from flowbp.training import Batching, TrainingSampling, cost
from flowbp.training.division import Division, Needs, written_bytes

_WIDTH = 100


def overview(
    settings: Settings,
    trained: int,
    *,
    replaced: Sequence[str] = (),
    processes: int = 1,
    division: tuple[Division, Needs] | None = None,
    copied: bool = False,
    peak: str = "",
) -> str:
    """What a run would do: parts, an example of the method's draw, cost, prompts, folder.

    The `peak` of a step is in words. Its checkpoints are written from copies where the backbone can
    be `copied`.
    """
    tree = resolved_values(settings, defaults=False)
    surrogate = example_surrogate(settings, settings.run.seed)
    sampling, batching = settings.sampling, settings.batching
    samples = counted(batching.total(processes), "sample")
    rescaled = rescales_guidance(settings.backbone)
    spent = cost(surrogate, sampling, anchored=settings.anchor is not None, rescaled=rescaled)
    # What is not set of a tuning is the model's or the file's own choice.
    tuning = {key: item for key, item in tree["tuning"].items() if item is not None}
    lines = {
        "backbone": words(tree["backbone"]),
        "trained": f"{trained:,} parameters, {words(tuning)}",
        "reward": f"{words(tree['reward'])}, loss {words(tree['loss'])}",
        "judge": words(tree["judge"]) if tree["judge"] else "none",
        "replaced": ", ".join(replaced),
        "prompts": words(tree["prompts"]) + _counted(settings.prompts),
        "embeddings": embeddings_text(settings.embeddings),
        "evaluation": _evaluation(settings),
        "method": words(tree["method"]),
        "example": drawing(surrogate, sampling.steps),
        "": LEGEND,
        " ": f"{joint_text(surrogate)}; weights {weights_text(surrogate)}",
        "  ": f"the reward reads {reward_input_text(surrogate)}",
        "sampling": f"{counted(sampling.steps, 'step')}{grid_text(sampling)}, guidance "
        f"{sampling.guidance:g}, {sampling.height}x{sampling.width} pixels"
        f"{extrapolated_text(sampling, surrogate)}",
        "portions": f"{counted(batching.samples, 'sample')} at a time forward, pull "
        f"{batching.pull}, decode {batching.decode}"
        f"{_checkpointing(settings.backbone)}{_compiled(settings.run)}",
        "processes": _shared(batching, processes, division[0] if division else Division()),
        "memory": division[0].described(division[1], processes) if division else "",
        "peak": peak,
        "each step": f"{samples}, each with {spent.forward} velocity "
        f"evaluations forward and {spent.backward} backward in this example",
        "optimizer": f"{words(tree['optimizer'])}, schedule {words(tree['schedule'])}",
        "training": pairs(tree["training"]),
        "anchor": _anchor(settings, surrogate, spent.forward),
        "checkpoints": _checkpoints(settings, division, copied=copied),
        "folder": str(settings.run.folder),
    }
    return "\n".join(_line(name, text) for name, text in lines.items() if text)


def _checkpoints(
    settings: Settings, division: tuple[Division, Needs] | None, *, copied: bool
) -> str:
    policy = settings.checkpoints
    found = "the last step's"
    if policy.every is not None:
        best = "" if policy.best is None else f" and the best by {policy.best}"
        kept = "all" if policy.keep is None else f"the newest {policy.keep}{best}"
        found = f"every {counted(policy.every, 'step')}, {kept} kept"
    if division is None:
        return found
    divided, needs = division
    if divided.shard > 1:
        how = "training waits while all processes write their shares"
    elif not copied:
        how = "training waits while the backbone's `save` writes it"
    else:
        size = written_bytes(needs.copy)
        how = f"written beside training from a copy of {size} in the host's memory, if it has room"
    return f"{found}; {how}"


def _shared(batching: Batching, processes: int, division: Division) -> str:
    if processes == 1:
        return ""
    total = batching.total(processes)
    portions = total // batching.samples // processes
    return (
        f"{processes}, {division.shared(processes)}, each with {total // processes} of a step's "
        f"{total} samples: {counted(portions, 'portion')} of batching.samples {batching.samples}"
    )


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


def _anchor(settings: Settings, surrogate: Surrogate, forward: int) -> str:
    if settings.anchor is None:
        return ""
    rescaled = rescales_guidance(settings.backbone)
    own = forward - cost(surrogate, settings.sampling, rescaled=rescaled).forward
    adapted = isinstance(settings.tuning, Lora)
    reference = "base model without adapter" if adapted else "model before training"
    return (
        f"strength {settings.anchor.strength:g}, towards the {reference}; {own} of the forward "
        "evaluations are the reference's"
    )


def _evaluation(settings: Settings) -> str:
    evaluation, sampling = settings.evaluation, evaluation_sampling(settings)
    if evaluation is None or sampling is None:
        return "none"
    return (
        f"{counted(len(evaluation.prompts.prompts()), 'held-out prompt')} before and after, "
        f"{counted(sampling.steps, 'step')}{grid_text(sampling) if evaluation.grid else ''}, "
        f"guidance {sampling.guidance:g}, noise seed {evaluation.noise_seed}"
        f"{_left_out(evaluation.prompts)}{_inside(settings, evaluation)}"
    )


def _inside(settings: Settings, evaluation: EvaluationSettings) -> str:
    every, stop = evaluation_every(settings), settings.early_stop
    if every is None:
        return ""
    which = "all" if evaluation.count is None else str(evaluation.count)
    besides = f", also by {', '.join(evaluation.metrics)}" if evaluation.metrics else ""
    found = f"; every {counted(every, 'step')} on {which} of them{besides}"
    if stop is None:
        return found
    patience = counted(stop.patience, "evaluation")
    return f"{found}; ends after {patience} without a rise of {stop.metric}"


def _counted(source: object) -> str:
    count = f", {len(source):,} of them" if isinstance(source, Sized) else ""
    return count + _left_out(source)


def _left_out(source: object) -> str:
    account = source.account() if isinstance(source, TableSource) else ""
    return f"; {account}" if account else ""


LEGEND = "● active  ◆ active joint  · cached  - leapt over  | ends of segments"
"""What the characters of `drawing` mean."""

_MOST = 8


def drawing(surrogate: Surrogate, steps: int) -> str:
    """Draw which steps are evaluated again, on a line of `steps` steps from noise to sample."""
    ends = {surrogate.segments[0].start, *(segment.stop for segment in surrogate.segments)}
    marks = [("|" if i in ends else "") + _mark(surrogate, i) for i in range(steps)]
    return "".join(marks) + ("|" if steps in ends else "")


def weights_text(surrogate: Surrogate) -> str:
    """The active steps, each with its weight and the scale of its gradient."""
    items = [
        f"{step}: {written(segment.weights[step], 4)}{_scaled(scale)}"
        for segment in surrogate.segments
        for step, scale in sorted(segment.active.items())
    ]
    rest = len(items) - _MOST
    return ", ".join(items[:_MOST]) + (f" and {rest} more" if rest > 0 else "")


def _scaled(scale: float) -> str:
    return f" x {written(scale)}" if scale != 1 else ""


def joint_text(surrogate: Surrogate) -> str:
    """What crosses the joint, in words."""
    joints = [segment.start for segment in surrogate.segments[1:]]
    if not joints:
        return "no joint, no Jacobian"
    where = f"step {joints[0]}" if len(joints) == 1 else f"steps {joints[0]} to {joints[-1]}"
    return f"joint at {where}, alpha {surrogate.alpha:g}"


def reward_input_text(surrogate: Surrogate) -> str:
    """What the reward reads, in words."""
    if surrogate.reward_input == "sample":
        copies = f", and {surrogate.noised} renoised copies of it" if surrogate.noised else ""
        return f"the sample{copies}"
    last = surrogate.segments[-1]
    supports = sorted(last.weights)
    which = f"step {supports[0]}"
    if len(supports) > 1:
        rest = f" and {len(supports) - _MOST} more" if len(supports) > _MOST else ""
        which = f"steps {', '.join(map(str, supports[:_MOST]))}{rest}"
    velocity = "velocity" if len(supports) == 1 else "velocities"
    return f"the sample as predicted at step {last.start} from the {velocity} of {which}"


def extrapolated_text(sampling: TrainingSampling, surrogate: Surrogate) -> str:
    """How many velocities of a rollout are not evaluated, in words; nothing if all are."""
    left = surrogate.horizon - len(sampling.evaluated_steps(surrogate))
    return (
        f"; in training {left} of the velocities of this example are extrapolated" if left else ""
    )


def _mark(surrogate: Surrogate, step: int) -> str:
    if any(step in segment.active for segment in surrogate.segments):
        joint = any(step == each.start and step in each.active for each in surrogate.segments[1:])
        return "◆" if joint else "●"
    if any(step in segment.weights for segment in surrogate.segments):
        return "·"
    return "-" if any(each.start <= step < each.stop for each in surrogate.segments) else " "
