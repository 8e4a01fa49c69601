"""What a run saves and reports when it cannot go on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

import torch
from torch import Tensor, nn

from flowbp.component_errors import dotted_path
from flowbp.files import SavingError
from flowbp.training.checkpoint import MANIFEST, TRAINING, numbered
from flowbp.training.retention import Checkpoints
from flowbp.training.run_state import RunState
from flowbp.training.sharded_state import FindNonFinite, StoppedTogether, ask, network_of
from flowbp.training.step import StepResult

_CAUSES = {
    "latents": (
        "sampling itself overflowed: the weights have diverged (lower the learning rate, clip "
        "harder), `guidance` is too large, or the network computes in a dtype of too small a range"
    ),
    "rewards": (
        "the latents are finite, so the decoder or the reward made it: it divides by, or takes the "
        "logarithm of, something that can be 0, or computes in a dtype of too small a range"
    ),
    "loss": (
        "the rewards are finite, so the loss shape or the weight of the samples made it: a reward "
        "far outside the range that the shape is meant for, or a residual floor `tau` near 0"
    ),
    "cotangent": (
        "the loss is finite but its derivative is not: the reward or the decoder has a square "
        "root, norm, logarithm or division whose derivative is infinite at these pictures; "
        "add an eps there, or compute it in float32"
    ),
    "anchor": (
        "latents and reward are finite, so the reference made it, or the distance to it overflowed:"
        " the model has left it far behind (raise `anchor.strength`, lower the learning rate), or "
        "the reference computes in a dtype of too small a range"
    ),
    "gradients": (
        "reward and cotangent are finite, so the backward pass of the network overflowed: lower "
        "`alpha` or the number of Jacobians kept, lower the learning rate, or compute in "
        "bfloat16 or float32"
    ),
    "parameters": (
        "the gradients are finite, so the update made them: the learning rate is far too large, "
        "or the dtype of the weights has too small a range"
    ),
}

BLAMED = ("latents", "anchor", "gradients", "parameters")
"""Quantities that the network itself computes: parameters under which one of them is not finite are
not called good. The others are made by the decoder, the reward or the loss."""


class NonFiniteError(ArithmeticError):
    """A training step met a number that is not finite; `quantity` says where, `saved` what stays.

    No parameter was changed by that step, unless it is the parameters that are not finite.
    """

    def __init__(self, step: int, quantity: str, detail: str, saved: str) -> None:
        self.step, self.quantity, self.detail, self.saved = step, quantity, detail, saved
        updated = quantity == "parameters"
        super().__init__(
            f"step {step} was stopped {'after' if updated else 'before'} the optimizer: {detail}. "
            f"Likely cause: {_CAUSES[quantity]}. "
            f"{'' if updated else 'No parameter was changed by this step; '}{saved}."
        )


def describe(quantity: str, result: StepResult, run: RunState) -> str:
    """Which samples or parameters are not finite."""
    if quantity == "gradients":
        gradients = {n: p.grad for n, p in run.parameters.items() if p.grad is not None}
        if network_of(run) is None:
            names = [name for name, gradient in gradients.items() if not _finite(gradient)]
        else:
            names = ask(run, FindNonFinite(gradients=True))
        where = _some([f"`{name}`" for name in names]) if names else "none alone, only their norm"
        return f"{len(names)} of {len(gradients)} gradients are not finite ({where})"
    if quantity == "anchor":
        return "the distance to the reference is not finite"
    scores = result.scores
    by_sample = {
        "latents": result.latents,
        "rewards": scores.rewards,
        "loss": scores.losses,
        "cotangent": scores.cotangent,
    }[quantity]
    bad = [i for i, row in enumerate(by_sample) if not _finite(row)]
    prompts = list(dict.fromkeys(repr(result.prompts[i]) for i in bad))
    values = ""
    if quantity in ("rewards", "loss"):
        values = f", with the values {_some([f'{float(by_sample[i])}' for i in bad])}"
    if quantity == "rewards":
        values += _blamed_parts(scores.parts, bad)
    return (
        f"the {quantity} of {len(bad)} of {len(by_sample)} samples "
        f"{'is' if quantity in ('loss', 'cotangent') else 'are'} not finite{values}, "
        f"at the prompts {_some(prompts)}"
    )


def _blamed_parts(parts: Mapping[str, Tensor], bad: list[int]) -> str:
    if not parts:
        return ""
    broken = {
        name: dict.fromkeys(f"{float(scores[i])}" for i in bad if not _finite(scores[i]))
        for name, scores in parts.items()
    }
    named = [f"`{name}` {_some(list(values))}" for name, values in broken.items() if values]
    if not named:
        return ", which their sum makes while every part is finite"
    return f", not finite among its parts: {_some(named)}"


def describe_parameters(parameters: Mapping[str, Tensor]) -> str | None:
    """Which parameters are not finite, or too large to have a norm."""
    if _finite(nn.utils.get_total_norm(parameters.values())):
        return None
    names = [name for name, parameter in parameters.items() if not _finite(parameter)]
    if not names:
        return "the parameters are so large that their norm is not finite"
    return _listed(names, parameters)


def _broken_parameters(run: RunState) -> str | None:
    if network_of(run) is None:
        return describe_parameters(run.parameters)
    names = ask(run, FindNonFinite())
    return _listed(names, run.parameters) if names else None


def _listed(names: list[str], parameters: Mapping[str, Tensor]) -> str:
    listed = _some([f"`{name}`" for name in names])
    return f"{len(names)} of {len(parameters)} parameters are not finite ({listed})"


def _finite(value: Tensor) -> bool:
    return bool(torch.isfinite(value).all())


def _some(items: list[str], most: int = 4) -> str:
    rest = len(items) - most
    return ", ".join(items[:most]) + (f" and {rest} more" if rest > 0 else "")


def save_after_exception(
    run: RunState, checkpoints: Checkpoints | None, error: BaseException
) -> str:
    """Save the model after an exception, unless this step is saved already; a clause on where."""
    # Gradients are not needed any more, and the memory may be.
    run.optimizer.zero_grad(set_to_none=True)
    written = checkpoints is None or checkpoints.settle()
    step, place = run.checkpoint or (-1, Path())
    if network_of(run) is not None and not isinstance(error, StoppedTogether):
        newest = f"; the newest checkpoint is {_to_go_on(place, error)}" if run.checkpoint else ""
        return f"{_after(run)} are not saved, as the processes share them, and one is gone{newest}"
    # Not where it was saved, if that folder is gone, or is still that of an earlier session.
    there = written and (place / MANIFEST).is_file()
    if step == run.done and not run.updating and there:
        return f"{_after(run)} are saved in {_to_go_on(place, error)}"
    name = numbered("interrupted" if isinstance(error, KeyboardInterrupt) else "stopped", run.done)
    return _saved(run, checkpoints, lambda to: _to_go_on(to.save(run, name), error), whole=name)


def _to_go_on(place: Path, error: BaseException) -> str:
    """A checkpoint, and that a run goes on from it; of an interrupted one the command says so."""
    goes_on = (place / TRAINING).is_dir() and not isinstance(error, KeyboardInterrupt)
    return f"{place}, from which --resume goes on" if goes_on else str(place)


def nonfinite_error(
    run: RunState, checkpoints: Checkpoints | None, quantity: str, result: StepResult
) -> NonFiniteError:
    """Save the model after a step with a number that is not finite; the error to raise."""
    detail = describe(quantity, result, run)
    if quantity == "rewards":
        detail += f", as the reward {dotted_path(run.step.reward)} scored them"
    saved = _save_after_nonfinite(run, checkpoints, quantity)
    return NonFiniteError(run.done + 1, quantity, detail, saved)


def refuse_nonfinite_parameters(run: RunState, checkpoints: Checkpoints | None) -> None:
    """Stop a run whose parameters are not finite, after saving them for someone to look at."""
    broken = _broken_parameters(run)
    if broken is not None:
        saved = _save_after_nonfinite(run, checkpoints, "parameters")
        raise NonFiniteError(run.done, "parameters", broken, saved)


def _save_after_nonfinite(run: RunState, checkpoints: Checkpoints | None, quantity: str) -> str:
    run.optimizer.zero_grad(set_to_none=True)
    # Parameters that have diverged may still give finite latents, by the order of a sum.
    blamed = quantity in BLAMED or _broken_parameters(run) is not None
    name = numbered("failed" if blamed else "last-good", run.done)
    clause = _saved(run, checkpoints, lambda to: to.save_model(run, name, averaged=False))
    if run.average is not None:
        beside = f"{name}-averaged"
        averaged = _saved(run, checkpoints, lambda to: to.save_model(run, beside, averaged=True))
        clause = f"{clause}; averaged, {averaged}"
    if not blamed or checkpoints is None:
        return clause
    clause = f"{clause}; these are the ones that failed, do not continue training from them"
    before = checkpoints.before(run.done)
    if before is None:
        return f"{clause}; no checkpoint was written before (`every` of the checkpoints does)"
    return f"{clause}; the newest checkpoint before is that of step {before.step}, {before.place}"


def _after(run: RunState) -> str:
    mixed = ", some of them already changed by the next step," if run.updating else ""
    return f"the parameters after step {run.done}{mixed}"


def _saved(
    run: RunState,
    checkpoints: Checkpoints | None,
    save: Callable[[Checkpoints], Path | str],
    *,
    whole: str | None = None,
) -> str:
    """Save, and report in a clause what came of it; `whole` names a checkpoint to go on from."""
    if checkpoints is None:
        return f"{_after(run)} were not saved, as no folder for checkpoints is set"
    try:
        return f"{_after(run)} are saved in {save(checkpoints)}"
    except Exception as error:
        # What stopped the run must not be hidden by a second failure, so this one stands
        # in its message.
        why = f"({type(error).__name__}: {error})"
        disk = isinstance(error, SavingError)
    if whole is not None and not run.updating and not disk:
        # A backbone of others that cannot write its own files must not cost what was trained.
        with suppress(Exception):
            place = checkpoints.save(run, whole, files=False)
            return (
                f"{_after(run)} are saved in {place}, from which --resume goes on; the model's "
                f"own files could not be written {why}"
            )
    return f"{_after(run)} could not be saved {why}"
