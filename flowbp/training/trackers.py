"""A run's metrics, evaluations and sample pictures in Weights & Biases and trackio."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
import time
import uuid
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import attrs
from torch import Tensor

from flowbp.component_errors import calling
from flowbp.config import parse_json, read_utf8, structure_record
from flowbp.extras import install, require
from flowbp.files import write_atomically
from flowbp.training.metrics import HeldOutMetrics, Metrics, metrics_row
from flowbp.training.observers import Observer
from flowbp.validators import integer

_OFFLINE = ("offline", "disabled", "dryrun")
_SETTLED = 5.0
"""Seconds after which what was sent has been written, even if this process is killed then."""

_CURE = "remove it to go on in a new run of the tracker"


def _text(_: object, attribute: attrs.Attribute[Any], value: str | None) -> None:
    if value is not None and not value.strip():
        raise ValueError(f"`{attribute.name}` must not be empty; leave it out for the default")


@attrs.frozen(kw_only=True)
class WandbSettings:
    """Where a run goes in Weights & Biases.

    Args:
        project: that it is listed in.
        run: its name; that of its folder if null.
        entity: the user or team; your default one if null.
        mode: `offline` keeps everything in the run's folder, for `wandb sync`; that of the
            environment (`WANDB_MODE`) if null, or else online.
    """

    project: str = attrs.field(default="flowbp", validator=_text)
    run: str | None = attrs.field(default=None, validator=_text)
    entity: str | None = attrs.field(default=None, validator=_text)
    mode: Literal["online", "offline"] | None = None


@attrs.frozen(kw_only=True)
class TrackioSettings:
    """Where a run goes in trackio.

    Args:
        project: that it is listed in.
        run: its name, to which a few letters are added; that of its folder if null.
        space: the Space on the Hugging Face Hub that shows it; null keeps it on this machine, for
            `trackio show`.
    """

    project: str = attrs.field(default="flowbp", validator=_text)
    run: str | None = attrs.field(default=None, validator=_text)
    space: str | None = attrs.field(default=None, validator=_text)


@attrs.frozen(kw_only=True)
class Tracked:
    """What a tracker has of a run: its id there, and the last step of each kind; -1 is none."""

    id: str
    rows: int = attrs.field(default=0, validator=integer(0))
    evaluations: int = attrs.field(default=-1, validator=integer(-1))
    pictures: int = attrs.field(default=-1, validator=integer(-1))


class Tracker(Observer):
    """What trackers have in common: each step is sent once, also by a run that goes on.

    After a kill, what was sent in the last seconds before is sent again, as it may be lost. A
    tracker that fails to begin stops the run; one that fails later is reported, and left out.

    Args:
        folder: the run's, whose file `record` has what was sent.
        configuration: of the run, as mappings and scalars.
    """

    package: str

    def __init__(self, folder: Path, configuration: Mapping[str, Any]) -> None:
        require(self.package, extra=self.package)
        self._folder, self._configuration = Path(folder), dict(configuration)
        self._run: Any = None
        self._tracked = Tracked(id=uuid.uuid4().hex[:8])
        # With the times from which on they count.
        self._pending: list[tuple[float, Tracked]] = []

    @property
    def record(self) -> Path:
        """The file with what was sent."""
        return self._folder / f"{self.package}.json"

    def begin(self, rows: Sequence[Metrics]) -> None:
        """Open the run, that of an earlier process where there was one, and send what it lacks."""
        if self.record.exists():
            tree = parse_json(read_utf8(self.record, _CURE), self.record, _CURE)
            self._tracked = structure_record(Tracked, tree, self.record, _CURE)
        with calling("tracker", self):
            self._run = self._opened(self._tracked.id)
        self._keep(self._tracked)
        for row in rows:
            self.row(row)

    def row(self, metrics: Metrics) -> None:
        """Every metric that is defined, under `train/`."""
        if metrics.step <= self._tracked.rows:
            return
        row = metrics_row(metrics)
        found = {f"train/{k}": v for k, v in row.items() if k != "step" and v is not None}
        self._send(metrics.step, lambda: found, rows=metrics.step)

    def evaluations(self, rows: Sequence[HeldOutMetrics]) -> None:
        """Every metric under `evaluation/`, and all evaluations so far as one table."""
        columns = list(dict.fromkeys(name for row in rows for name in row.means))
        for number, row in enumerate(rows, 1):
            if row.step <= self._tracked.evaluations:
                continue
            table = [[each.step, *map(each.means.get, columns)] for each in rows[:number]]

            def values(row: HeldOutMetrics = row, table: Any = table) -> dict[str, Any]:
                scalars = {f"evaluation/{name}": value for name, value in row.means.items()}
                return scalars | {"evaluations": self._table(["step", *columns], table)}

            self._send(row.step, values, evaluations=row.step)

    def pictures(self, step: int, images: Tensor, prompts: Sequence[str]) -> None:
        """All pictures, each with its prompt."""
        if step <= self._tracked.pictures:
            return

        def values() -> dict[str, Any]:
            arrays = (images.clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
            shown = [self._picture(a, p) for a, p in zip(arrays, prompts, strict=True)]
            return self._named(shown)

        self._send(step, values, pictures=step)

    def close(self) -> None:
        """Wait until everything is sent; a run that an error ends is shown as failed."""
        run, self._run = self._run, None
        if run is not None:
            with self._warned():
                self._finish(run, failed=sys.exc_info()[0] is not None)
                self._keep(self._tracked)

    def _send(self, step: int, values: Callable[[], dict[str, Any]], **sent: Any) -> None:
        if self._run is None:
            return
        with self._warned():
            self._log(step, values())
            self._tracked = attrs.evolve(self._tracked, **sent)
            now = time.monotonic()
            self._pending.append((now + _SETTLED, self._tracked))
            settled = [tracked for when, tracked in self._pending if when <= now]
            if settled:
                self._keep(settled[-1])
                self._pending = self._pending[len(settled) :]

    def _keep(self, tracked: Tracked) -> None:
        write_atomically(self.record, json.dumps(attrs.asdict(tracked)) + "\n")

    def _warned(self) -> _Warned:
        return _Warned(self)

    def leave(self, error: Exception) -> None:
        """Send nothing more."""
        self._run = None
        warnings.warn(
            f"nothing more goes to {self.package} ({type(error).__name__}: {error}); the run goes "
            "on, and metrics.jsonl has the metrics",
            stacklevel=2,
        )

    def _opened(self, id: str) -> Any:
        raise NotImplementedError

    def _log(self, step: int, values: Mapping[str, Any]) -> None:
        raise NotImplementedError

    def _table(self, columns: list[str], rows: list[list[Any]]) -> Any:
        raise NotImplementedError

    def _picture(self, array: Any, caption: str) -> Any:
        raise NotImplementedError

    def _named(self, pictures: list[Any]) -> dict[str, Any]:
        raise NotImplementedError

    def _finish(self, run: Any, *, failed: bool) -> None:
        raise NotImplementedError


class _Warned:
    """A block whose failure is the tracker's last; trackers are a convenience, and end no run."""

    def __init__(self, tracker: Tracker) -> None:
        self._tracker = tracker

    def __enter__(self) -> None:
        return

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> bool:
        if not isinstance(error, Exception):
            return False
        self._tracker.leave(error)
        return True


class Wandb(Tracker):
    """Sends a run to Weights & Biases, or keeps it in the run's folder for `wandb sync`."""

    package = "wandb"

    def __init__(
        self, settings: WandbSettings, folder: Path, configuration: Mapping[str, Any]
    ) -> None:
        super().__init__(folder, configuration)
        self._settings = settings

    def _opened(self, id: str) -> Any:
        import wandb

        run = wandb.init(
            project=self._settings.project,
            name=self._settings.run or self._folder.resolve().name,
            entity=self._settings.entity,
            mode=self._settings.mode,
            id=id,
            resume="allow",
            dir=str(self._folder),
            config=self._configuration,
            # The console is the run's own.
            settings=wandb.Settings(console="off"),
        )
        # The steps of wandb itself only rise, and a run that goes on may show a picture again.
        run.define_metric("step", hidden=True)
        run.define_metric("*", step_metric="step")
        return run

    def _log(self, step: int, values: Mapping[str, Any]) -> None:
        self._run.log({"step": step, **values})

    def _table(self, columns: list[str], rows: list[list[Any]]) -> Any:
        import wandb

        return wandb.Table(columns=columns, data=rows)

    def _picture(self, array: Any, caption: str) -> Any:
        import wandb

        return wandb.Image(array, caption=caption)

    def _named(self, pictures: list[Any]) -> dict[str, Any]:
        return {"samples": pictures}

    def _finish(self, run: Any, *, failed: bool) -> None:
        run.finish(exit_code=int(failed))


class Trackio(Tracker):
    """Sends a run to trackio, on this machine or in a Space."""

    package = "trackio"

    def __init__(
        self, settings: TrackioSettings, folder: Path, configuration: Mapping[str, Any]
    ) -> None:
        super().__init__(folder, configuration)
        self._settings = settings

    def _opened(self, id: str) -> Any:
        import trackio

        # A run is known by its name there.
        name = f"{self._settings.run or self._folder.resolve().name}-{id[:4]}"
        return trackio.init(
            project=self._settings.project,
            name=name,
            space_id=self._settings.space,
            config=self._configuration,
            resume="allow",
            embed=False,
        )

    def _log(self, step: int, values: Mapping[str, Any]) -> None:
        self._run.log(dict(values), step=step)

    def _table(self, columns: list[str], rows: list[list[Any]]) -> Any:
        import trackio

        return trackio.Table(columns=columns, data=rows)

    def _picture(self, array: Any, caption: str) -> Any:
        import trackio

        return trackio.Image(array, caption=caption)

    def _named(self, pictures: list[Any]) -> dict[str, Any]:
        return {f"samples/{number}": each for number, each in enumerate(pictures, 1)}

    def _finish(self, run: Any, *, failed: bool) -> None:
        import trackio

        trackio.finish()


def tracker_faults(
    wandb: WandbSettings | None, trackio: TrackioSettings | None
) -> Iterator[tuple[tuple[str, ...], str]]:
    """What is missing of trackers that are wanted, by their keys."""
    for name, wanted in (("wandb", wandb), ("trackio", trackio)):
        if wanted is not None and importlib.util.find_spec(name) is None:
            yield (
                (name,),
                f"is given, and {name} is not installed; run: {install(name)}",
            )
        elif name == "wandb" and wandb is not None and not _may_send(wandb):
            yield (
                ("wandb", "mode"),
                "is online, and nobody is logged in to Weights & Biases here; run `wandb login`, "
                "set WANDB_API_KEY, or write mode: offline",
            )


def _may_send(settings: WandbSettings) -> bool:
    mode = settings.mode or os.environ.get("WANDB_MODE", "online")
    if mode in _OFFLINE:
        return True
    # Whether a key is there; whether it is right, the server says when the run begins.
    return bool(require("wandb", extra="wandb").login(prompt=False, verify=False))
