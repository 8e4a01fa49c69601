"""Whether and from where a run can go on, found before any model is loaded."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import attrs

from flowbp.cli.run.folder import CONFIGURATION, Finished, read_finished, replaced_heading
from flowbp.cli.timings import read_timings
from flowbp.config import ConfigurationError, DamagedError, Problem, plain, read_file
from flowbp.settings import (
    SOURCES,
    STEPS,
    Change,
    Settings,
    Source,
    changes,
    decisive,
    read_sources,
    resolved_values,
    source_at,
)
from flowbp.training import CheckpointError, Checkpoints

_CURE = "give the former value, or name another run.folder for a new run"


@attrs.frozen
class Resumption:
    """Where a run goes on."""

    checkpoint: Path | None
    step: int
    notes: tuple[str, ...]
    sessions: tuple[Mapping[str, float], ...] = ()


def resumption(settings: Settings, checkpoints: Checkpoints, replaced: Sequence[str]) -> Resumption:
    """Find the newest checkpoint of a run, or raise why the run cannot go on."""
    found, total = _changes(settings, replaced), settings.training.steps
    try:
        moved = _moved(settings, found)
        forbidden = [
            change
            for change in found
            if not change.allowed and change.key != STEPS and change.key not in moved
        ]
        if forbidden:
            raise ConfigurationError(Problem(c.key, _message(c), "") for c in forbidden)
        # A run that has no checkpoint yet goes on from step 0, with the same result. A damaged
        # checkpoint is never passed over.
        newest = checkpoints.newest()
        step = 0 if newest is None else int(newest.step)
        for change in found:
            if change.key == STEPS:
                _refuse_steps(settings, change, step)
        _refuse_finished(settings, found, read_finished(settings.run.folder))
        sessions = read_timings(settings.run.folder)
    except (CheckpointError, DamagedError) as error:
        raise _refused(str(error)) from error
    begun = f"resuming: no checkpoint was saved yet, training starts from step 0 of {total}"
    if newest is not None:
        begun = f"resuming after step {step} of {total}, from {newest.place}"
    rounded = (
        f"{change.key} changed from {change.old} to {change.new}: from here on, metrics agree "
        "with those of a run that never stopped up to rounding only"
        for change in found
        if change.rounding
    )
    notes = (begun, *(f"{key} has moved, and holds the same files" for key in moved), *rounded)
    return Resumption(newest.place if newest else None, step, notes, sessions)


def _moved(settings: Settings, found: tuple[Change, ...]) -> tuple[str, ...]:
    """The keys that lead elsewhere, to the same files; refuses those that lead to other files."""
    folder, leaves = settings.run.folder, decisive(settings)
    before = read_sources(folder)
    if before is None:
        if any((folder / "checkpoints").glob("*")):
            raise _refused(
                f"is {folder}, whose {SOURCES} is missing, which says what the run's model was "
                "made of; restore it from a copy, or name another folder for a new run"
            )
        return ()
    changed = {change.key for change in found}
    places = {key: json.loads(leaves.get(key, "null")) for key in before}
    now = {k: source_at(place) for k, place in places.items() if isinstance(place, str)}
    problems = [
        Problem(key, f"is {places[key]!r}, {fault}", "")
        for key, source in before.items()
        if (fault := _fault(source, now.get(key), changed=key in changed)) is not None
    ]
    if problems:
        raise ConfigurationError(problems)
    return tuple(key for key in before if key in changed and now.get(key) is not None)


def _fault(before: Source, now: Source | None, *, changed: bool) -> str | None:
    if now is None:
        # A key that has another value, which is no place, is refused as any other.
        gone = "which no longer exists; give its new path"
        return None if changed else gone
    differing = before.differing(now)
    if differing is None:
        return None
    what = "it" if differing == "." else f"its file {differing}"
    return (
        f"and {what} is not what the run began with; give the place of the former files, or name "
        "another run.folder for a new run"
    )


def _changes(settings: Settings, replaced: Sequence[str]) -> tuple[Change, ...]:
    folder = settings.run.folder
    path = folder / CONFIGURATION
    if not path.is_file():
        what = f"has no {CONFIGURATION}" if folder.exists() else "does not exist"
        raise _refused(
            f"is {folder}, which {what}, so that there is no run to resume; correct the folder, "
            "or leave --resume out to begin a run there"
        )
    try:
        old = plain(read_file(path))
    except ConfigurationError as error:
        raise _refused(
            f"is {folder}, whose {CONFIGURATION} cannot be read ({error.problems[0]}); restore "
            "that file, or name another folder for a new run"
        ) from error
    before, now = path.read_text(encoding="utf-8"), replaced_heading(replaced)
    first = before.splitlines()[0] if before.startswith("#") else ""
    if first != now.strip():
        raise _refused(
            f"is {folder}, whose run had other parts replaced from Python ({first or 'none'}) than "
            f"this one ({now.strip() or 'none'}); replace the same parts with the same objects"
        )
    return changes(old, resolved_values(settings))


def _message(change: Change) -> str:
    return f"was {change.old} when the run began, and is now {change.new}; {_CURE}"


def _refuse_steps(settings: Settings, change: Change, done: int) -> None:
    schedule, new = settings.schedule, settings.training.steps
    rate = settings.optimizer.learning_rate
    why = ""
    if change.old == "nothing" or int(change.old) > new:
        why = "it can only be raised"
    elif any(
        schedule.factor(t, int(change.old), rate) != schedule.factor(t, new, rate)
        for t in range(done)
    ):
        why = (
            f"the schedule spans all steps, and with another number of them the {done} steps that "
            "are done would have had other learning rates; a new run can start from what this one "
            "saved, as backbone.source or tuning.start"
        )
    if why:
        raise ConfigurationError([Problem(STEPS, f"{_message(change)}; {why}", "")])


def _refuse_finished(
    settings: Settings, found: tuple[Change, ...], finished: Finished | None
) -> None:
    folder, total = settings.run.folder, settings.training.steps
    if finished is None:
        return
    done, early = finished.steps, finished.ended_early
    if early and not any(change.key.startswith("early_stop") for change in found):
        raise _refused(
            f"is {folder}, whose run is finished: a held-out metric ended it after step {done}; "
            "raise early_stop.patience, or write early_stop=null, to train on, or name another "
            "folder for a new run"
        )
    if done >= total:
        raise _refused(
            f"is {folder}, whose run is finished: all {total} steps are done; under a constant "
            f"schedule raise {STEPS} above {total} to train on, or name another folder for a new "
            "run"
        )


def _refused(message: str) -> ConfigurationError:
    return ConfigurationError([Problem("run.folder", message, "")])
