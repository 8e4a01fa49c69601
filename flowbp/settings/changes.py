"""What may change in a configuration when its run goes on, and what may not."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

import attrs

from flowbp.configuration import plain, read_text
from flowbp.settings.loading import resolved
from flowbp.settings.places import known
from flowbp.settings.schema import Settings

FREE = (
    "run.folder",
    "embeddings.folder",
    "evaluation.every",
    "early_stop",
    "samples",
    "checkpoints",
    "observers",
)
"""Sections and keys that training does not depend on."""

ROUNDING = (
    "run.device",
    "run.threads",
    "run.compile",
    "run.activations",
    "backbone.gradient_checkpointing",
    "batching.pull",
    "batching.decode",
    "embeddings.batch",
    "evaluation.batch",
)
"""Keys that change nothing but the rounding of the figures."""

STEPS = "training.steps"
"""May be raised where the schedule leaves the steps that are done as they were."""


@attrs.frozen
class Change:
    """A key that has another value than before.

    Args:
        key: dotted.
        old: its former value as text, `nothing` if it was absent.
        new: its present one.

    Example:
        >>> Change("run.seed", "0", "1").allowed
        False
    """

    key: str
    old: str
    new: str

    @property
    def free(self) -> bool:
        """Whether training does not depend on it."""
        return _under(self.key, FREE)

    @property
    def rounding(self) -> bool:
        """Whether it changes only the rounding."""
        return _under(self.key, ROUNDING)

    @property
    def allowed(self) -> bool:
        """Whether a run may go on with it, whatever the values."""
        return self.free or self.rounding


def tree_of_settings(settings: Settings) -> Any:
    """The resolved settings as plain mappings.

    Args:
        settings: of the run.

    Returns:
        What their YAML holds.

    Raises:
        ValueError: as `resolved`.

    Example:
        See `changes`.
    """
    return plain(read_text(resolved(settings), "the settings"))


def changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> tuple[Change, ...]:
    """Compare two resolved configurations key by key.

    Args:
        old: the former one.
        new: the present one.

    Returns:
        What differs, in the order of the keys.

    Example:
        >>> changes({"run": {"seed": 0}}, {"run": {"seed": 1}})
        (Change(key='run.seed', old='0', new='1'),)
    """
    before, after = dict(_leaves(old)), dict(_leaves(new))
    differing = [key for key in before | after if before.get(key) != after.get(key)]
    return tuple(
        Change(key, before.get(key, "nothing"), after.get(key, "nothing")) for key in differing
    )


def identity(settings: Settings) -> str:
    """A digest of all settings that a run cannot change when it goes on.

    Files and folders that the run's folder knows by their content go in by that and not by their
    place.

    Args:
        settings: of the run.

    Returns:
        Hexadecimal. Runs with the same one train alike, and may use each other's checkpoints.

    Raises:
        ValueError: as `resolved`.

    Example:
        See `flowbp.container.RunContainer`, whose checkpoints carry it.
    """
    found = {**decisive(settings), **known(settings.run.folder)}
    return hashlib.sha256(json.dumps(found, sort_keys=True).encode()).hexdigest()


def decisive(settings: Settings) -> Mapping[str, str]:
    """The settings that a run cannot change when it goes on.

    Args:
        settings: of the run.

    Returns:
        Values as JSON by dotted key.

    Raises:
        ValueError: as `resolved`.

    Example:
        See `identity`.
    """
    leaves = _leaves(tree_of_settings(settings))
    return {k: text for k, text in leaves if k != STEPS and not _under(k, FREE + ROUNDING)}


def _leaves(tree: Any, key: str = "") -> Iterator[tuple[str, str]]:
    if isinstance(tree, Mapping) and tree:
        for name, item in tree.items():
            yield from _leaves(item, f"{key}.{name}" if key else name)
    else:
        yield key, json.dumps(tree, ensure_ascii=False)


def _under(key: str, names: tuple[str, ...]) -> bool:
    return any(key == name or key.startswith(f"{name}.") for name in names)
