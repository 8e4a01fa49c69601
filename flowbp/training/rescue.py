"""What is saved when a run cannot go on, and how the user is told."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from flowbp.components import dotted
from flowbp.disk import SavingError
from flowbp.training.checkpoint import Savable
from flowbp.training.checkpoints import Checkpoints
from flowbp.training.manifest import MANIFEST
from flowbp.training.nonfinite import NonFiniteError, describe, describe_parameters
from flowbp.training.result import StepResult
from flowbp.training.state import RunState

BLAMED = ("latents", "anchor", "gradients", "parameters")
"""Quantities that the network itself computes: parameters under which one of them is not finite are
not called good. The others are made by the decoder, the reward or the loss."""


def rescue_stopped(
    state: RunState, source: Savable, checkpoints: Checkpoints | None, error: BaseException
) -> str:
    """Save the model after an exception, unless this step is saved already.

    Args:
        state: of the run.
        source: the backbone.
        checkpoints: where to save; None saves nothing.
        error: what stopped the run; the folder is `interrupted-<step>` after a
            KeyboardInterrupt, else `stopped-<step>`.

    Returns:
        A clause on what is saved and where.

    Example:
        See `Trainer.run`.
    """
    # Gradients are not needed any more, and the memory may be.
    state.optimizer.zero_grad(set_to_none=True)
    place = _place_of(state)
    if place is not None and not state.updating:
        return f"{_after(state)} are saved in {place}"
    word = "interrupted" if isinstance(error, KeyboardInterrupt) else "stopped"
    name = f"{word}-{state.done:06}"
    return _saved(state, checkpoints, lambda to: to.save(state, source, name), whole=name)


def rescue_broken(
    state: RunState, source: Savable, checkpoints: Checkpoints | None, quantity: str
) -> str:
    """Save the model after a number that is not finite.

    Args:
        state: of the run.
        source: the backbone.
        checkpoints: where to save; None saves nothing.
        quantity: what was not finite. The folder is `last-good-<step>` if it is none of `BLAMED`
            and the parameters are such as a checkpoint may have, else `failed-<step>`.

    Returns:
        A clause on what is saved and where. If the saved parameters are those that failed, it
        says so and names the newest checkpoint before them.

    Example:
        See `NonFiniteError`, whose message has it.
    """
    state.optimizer.zero_grad(set_to_none=True)
    # Parameters that have run away may still give finite latents, by the order of a sum.
    blamed = quantity in BLAMED or describe_parameters(state.parameters) is not None
    name = f"{'failed' if blamed else 'last-good'}-{state.done:06}"
    told = _saved(state, checkpoints, lambda to: to.save_model(state, source, name, averaged=False))
    if state.average is not None:
        other = f"{name}-averaged"
        averaged = _saved(
            state, checkpoints, lambda to: to.save_model(state, source, other, averaged=True)
        )
        told = f"{told}; averaged, {averaged}"
    if not blamed or checkpoints is None:
        return told
    told = f"{told}; these are the ones that failed, and training should not go on from them"
    before = checkpoints.before(state.done)
    if before is None:
        return f"{told}; no checkpoint was written before (`every` of the checkpoints does)"
    return f"{told}; the newest checkpoint before is that of step {before.step}, {before.place}"


def stopped(
    state: RunState,
    source: Savable,
    checkpoints: Checkpoints | None,
    quantity: str,
    result: StepResult,
) -> NonFiniteError:
    """Save the model after a step with a number that is not finite, and say which it was.

    Args:
        state: of the run, the step's gradients still there.
        source: the backbone.
        checkpoints: where to save; None saves nothing.
        quantity: what was not finite.
        result: the step's.

    Returns:
        The error to raise.

    Example:
        See `Trainer.run`.
    """
    gradients = {n: p.grad for n, p in state.parameters.items() if p.grad is not None}
    detail = describe(quantity, result, gradients)
    if quantity == "rewards":
        detail += f", as the reward {dotted(state.step.reward)} scored them"
    saved = rescue_broken(state, source, checkpoints, quantity)
    return NonFiniteError(state.done + 1, quantity, detail, saved)


def refuse_broken(state: RunState, source: Savable, checkpoints: Checkpoints | None) -> None:
    """Stop a run whose parameters are not finite, after saving them for someone to look at.

    Args:
        state: of the run.
        source: the backbone.
        checkpoints: where to save; None saves nothing.

    Raises:
        NonFiniteError: a parameter is not finite.

    Example:
        See `Trainer.run`.
    """
    broken = describe_parameters(state.parameters)
    if broken is not None:
        saved = rescue_broken(state, source, checkpoints, "parameters")
        raise NonFiniteError(state.done, "parameters", broken, saved)


def _place_of(state: RunState) -> Path | None:
    """Where this very step is saved; not where it was, if that folder is gone."""
    step, place = state.checkpoint or (-1, Path())
    return place if step == state.done and (place / MANIFEST).is_file() else None


def _after(state: RunState) -> str:
    mixed = ", some of them already changed by the next step," if state.updating else ""
    return f"the parameters after step {state.done}{mixed}"


def _saved(
    state: RunState,
    checkpoints: Checkpoints | None,
    save: Callable[[Checkpoints], Path],
    *,
    whole: str | None = None,
) -> str:
    """Save, and say in a clause what came of it; `whole` names a checkpoint to go on from."""
    if checkpoints is None:
        return f"{_after(state)} were not saved, as no folder for checkpoints is set"
    try:
        return f"{_after(state)} are saved in {save(checkpoints)}"
    except Exception as error:
        # What stopped the run must not be hidden by a second failure, so this one is told
        # in its message.
        why = f"({type(error).__name__}: {error})"
        disk = isinstance(error, SavingError)
    if whole is not None and not state.updating and not disk:
        # A backbone of others that cannot write its own files must not cost what was trained.
        try:
            place = checkpoints.save(state, _NoFiles(), whole)
            return (
                f"{_after(state)} are saved in {place}, from which --resume goes on; the model's "
                f"own files could not be written {why}"
            )
        except Exception:
            pass
    return f"{_after(state)} could not be saved {why}"


class _NoFiles:
    """A model that leaves writing to the state of training."""

    def save(self, folder: Path) -> None:
        """Nothing."""
