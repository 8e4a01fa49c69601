"""What the user's file says, and all that is to be done by it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import attrs
import torch

from examples.paper.published import MODELS
from examples.paper.tasks import Row, Task, Training
from flowbp.config.problems import listed, nearest
from flowbp.limits import THREADS
from flowbp.settings import Change
from flowbp.validators import integer

_EACH = "is another one each time"
_OF_RUNS = dict.fromkeys(("method", "run.folder"), _EACH)
_OF_ROWS = {
    "models": _EACH,
    "evaluation.folder": _EACH,
    "evaluation.on_failure": "is `report` here, so that a failure stops nothing else",
}
_Sections = Mapping[str, Any]


def _models(_: object, attribute: attrs.Attribute[Any], value: Mapping[str, Any]) -> None:
    unknown = [name for name in value if name not in MODELS]
    if unknown or not value:
        near = nearest(unknown[0], MODELS) if unknown else ""
        got = f"got {unknown[0]!r}" if unknown else "and is empty"
        raise ValueError(
            f"`{attribute.name}` must be among {listed(MODELS)}, {got}. {near}Each takes a "
            "`source`, a folder in diffusers layout or a hub id"
        )


def _open(
    closed: Mapping[str, str],
) -> Callable[[object, attrs.Attribute[Any], _Sections | None], None]:
    """A validator: sections in which keys are not set that are set here, with why."""

    def check(_: object, attribute: attrs.Attribute[Any], value: _Sections | None) -> None:
        for name, why in closed.items():
            section, _, key = name.partition(".")
            found = (value or {}).get(section)
            if found is not None and (not key or (isinstance(found, Mapping) and key in found)):
                raise ValueError(
                    f"`{attribute.name}` must not have `{name}`, which {why}; remove it"
                )

    return check


@attrs.frozen(kw_only=True)
class PaperSettings:
    """What the user's file says.

    Args:
        folder: everything goes here; the same command continues.
        models: keys of the backbone by the name of the preset, `source` above all.
        run: sections of a run's YAML, laid over the published settings of every run.
        scores: sections of an evaluation's YAML, laid over scores.yaml; null has no such table.
        geneval: the same over geneval.yaml.
        gpus: processes of a run, and evaluations side by side; all that torch sees, if left out.
        keep_state: keep a finished run's training state and earlier checkpoints.
    """

    folder: Path
    models: _Sections = attrs.field(validator=_models)
    run: _Sections = attrs.field(validator=_open(_OF_RUNS))
    scores: _Sections | None = attrs.field(default=None, validator=_open(_OF_ROWS))
    geneval: _Sections | None = attrs.field(default=None, validator=_open(_OF_ROWS))
    gpus: int = attrs.field(
        factory=lambda: max(1, torch.cuda.device_count()), validator=integer(1, THREADS)
    )
    keep_state: bool = attrs.field(default=False, validator=attrs.validators.instance_of(bool))


@attrs.frozen(kw_only=True, eq=False)
class Paper:
    """All that is to be done, in its order, and the YAML that it is done by.

    Args:
        settings: the user's.
        tasks: the runs and evaluations.
        files: YAML that the commands read, by its path.
        changed: how the user's file changes the published settings, by model; each change with the
            methods that it is one of, none if of all.
    """

    settings: PaperSettings
    tasks: tuple[Task, ...]
    files: Mapping[Path, Any]
    changed: Mapping[str, Mapping[Change, tuple[str, ...]]]

    @property
    def trainings(self) -> list[Training]:
        """The runs."""
        return [task for task in self.tasks if isinstance(task, Training)]

    @property
    def rows(self) -> list[Row]:
        """The evaluations, each a row of a table."""
        return [task for task in self.tasks if isinstance(task, Row)]
