"""Conformance of observers."""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from flowbp.training import Metrics, Observer

STEPS = 3


def check_observer(build: Callable[..., Observer]) -> None:
    """Assert that an observer lives through whatever a run may do.

    It receives some event, takes every event with the arguments that a run gives, and leaves the
    pictures as they were. It can be closed before the first event, as where a run fails at once.
    It writes into the run's folder if it takes one, and not into the one where it was started. A
    run that was killed and goes on in the same folder leaves the same files as one that was not,
    unless two runs of the same events differ in their files anyway.

    Args:
        build: its class or factory, called as by a run: with `folder`, `steps` and
            `configuration` as far as it takes them. `functools.partial` gives it other arguments.

    Raises:
        AssertionError: says what does not hold.

    Example:
        >>> from flowbp.training import Observer
        >>> class Best(Observer):
        ...     reward = 0.0
        ...     def row(self, metrics):
        ...         self.reward = max(self.reward, metrics.reward)
        >>> check_observer(Best)
    """
    with TemporaryDirectory() as name:
        root = Path(name)
        with _elsewhere(root / "start") as start:
            _check_events(_built(build, root / "events"))
            _live(_built(build, root / "empty"), [("close",)])
            for place in ("once", "again"):
                _live(_built(build, root / place), [*_begun(0), *_went_on(0), ("close",)])
            # Killed, so never closed; then it goes on from the checkpoint of the first step.
            _live(_built(build, root / "killed"), [*_begun(0), *_went_on(0)])
            _live(_built(build, root / "killed"), [*_begun(1), *_went_on(1), ("close",)])
            strays = sorted(path.name for path in start.iterdir())
        if strays and "folder" in inspect.signature(build).parameters:
            raise AssertionError(
                f"an observer must write into `folder`, got {strays[0]!r} in the working folder; "
                "join the name to it: folder / name"
            )
        once, again, killed = (_files(root / each) for each in ("once", "again", "killed"))
    if once == again:
        _check_equal(killed, once)


@contextlib.contextmanager
def _elsewhere(folder: Path) -> Iterator[Path]:
    folder.mkdir()
    with contextlib.chdir(folder):
        yield folder


def _built(build: Callable[..., Observer], folder: Path) -> Observer:
    was_there = folder.exists()
    folder.mkdir(exist_ok=True)
    given = {"folder": folder, "steps": STEPS, "configuration": {}}
    taken = inspect.signature(build).parameters
    try:
        return build(**{name: value for name, value in given.items() if name in taken})
    # It is anybody's, and may raise anything.
    except Exception as error:
        where = "in a folder where a run was killed" if was_there else "in a new folder"
        raise AssertionError(
            f"an observer could not be built {where}: {type(error).__name__}: {error}"
        ) from error


def _check_events(observer: Observer) -> None:
    from flowbp.config.protocols import differing, lacking, members
    from flowbp.training import FurtherEvents, Observer

    unlike = lacking(observer, Observer) or differing(observer, FurtherEvents)
    if unlike:
        raise AssertionError(f"an observer must be a flowbp.training.Observer, and this {unlike}")
    events = [name for each in (Observer, FurtherEvents) for name in members(each)]
    own = [
        name
        for name in events
        if getattr(type(observer), name, None) is not getattr(Observer, name, None)
        or name in vars(observer)
    ]
    if not set(own) - {"close"}:
        raise AssertionError(
            f"an observer must have a method of its own for one of the events {', '.join(events)}, "
            "got none; a method of another name is never called"
        )


def _begun(done: int) -> list[tuple[Any, ...]]:
    """How a run begins, after so many steps."""
    from flowbp.training import Portions

    begun: list[tuple[Any, ...]] = [("begin", [_row(step) for step in range(1, done + 1)])]
    if done:
        begun.append(("evaluations", _evaluations(done)))
    else:
        begun.append(("portions", 1, Portions(samples=2, pull=1, decode=1), "pull 2 -> 1"))
        begun.append(("pictures", 0, torch.full((2, 3, 16, 16), 0.5), ("a circle", "a square")))
    return begun


def _went_on(done: int) -> list[tuple[Any, ...]]:
    """The events of the steps that are left."""
    events: list[tuple[Any, ...]] = []
    for step in range(done + 1, STEPS + 1):
        pictures = torch.full((2, 3, 16, 16), step / STEPS)
        events += [
            ("row", _row(step)),
            ("pictures", step, pictures, ("a circle", "a square")),
            ("evaluations", _evaluations(step)),
        ]
    return events


def _evaluations(done: int) -> tuple[Any, ...]:
    from flowbp.training import HeldOutMetrics

    return tuple(HeldOutMetrics(step=step, means={"reward": 0.5}) for step in range(1, done + 1))


def _row(step: int) -> Metrics:
    from flowbp.training import Metrics

    return Metrics(
        step=step,
        reward=0.1 * step,
        reward_std=0.1,
        loss=-0.1 * step,
        gradient_norm=1.0,
        learning_rate=1e-4,
        # Undefined where the surrogate has one segment.
        residuals=(0.0, None if step % 2 else 0.1),
        velocity_calls=4,
        seconds=1.0,
    )


def _live(observer: Observer, events: list[tuple[Any, ...]]) -> None:
    from flowbp.component_errors import ComponentError
    from flowbp.training.observers import notify

    for event, *values in events:
        images = [value for value in values if isinstance(value, torch.Tensor)]
        before = [image.clone() for image in images]
        try:
            notify([observer], event, *values)
        except ComponentError as error:
            raise AssertionError(f"{error}; it was the event `{event}`") from error
        if not all(map(torch.equal, images, before)):
            raise AssertionError(
                "an observer must leave the pictures as they are, and it changed them; others "
                "receive the same tensor: replace operations in place"
            )


def _files(folder: Path) -> Mapping[str, bytes]:
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def _check_equal(found: Mapping[str, bytes], expected: Mapping[str, bytes]) -> None:
    for name in sorted(found.keys() | expected.keys()):
        if found.get(name) != expected.get(name):
            raise AssertionError(
                f"an observer must leave the same files where a run was killed and went on, and "
                f"{name!r} differs; let `begin` bring it to the steps that it is given, as the "
                "later ones come again"
            )
