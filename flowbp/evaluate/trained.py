"""What each model of an evaluation was trained on, found in its run or told in its settings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from flowbp.configuration import ConfigurationError, plain, read_file, read_text
from flowbp.evaluate.schema import EvaluateSettings, ModelSection
from flowbp.settings import resolved
from flowbp.settings.intervals import Found

_CONFIGURATION = "configuration.yaml"
_SAME_LIKING = {"batch", "policy", "gradient_checkpointing", "verify", "calibration", "mean", "std"}
"""Keys of a reward that change its scale, its rounding or its memory, and not what it likes."""


def trained_on(settings: EvaluateSettings) -> dict[str, tuple[str, ...]]:
    """The metrics that models were trained on, by which of the others are held out is known.

    That is `trained_on` of the model, or those metrics that are the reward of the run whose
    `checkpoints` folder the checkpoint is in, or a part of it.

    Args:
        settings: of the evaluation.

    Returns:
        Labels of metrics by the label of a model; nothing of a model of which nothing is known.

    Raises:
        ValueError: what `training_faults` tells.

    Example:
        See `flowbp.evaluate.execution.execute`.
    """
    metrics = plain(read_text(resolved(settings), "the settings"))["metrics"]
    found = {label: _of(model, metrics) for label, model in settings.models.items()}
    return {label: columns for label, columns in found.items() if columns}


def unmeasured(settings: EvaluateSettings) -> dict[str, str]:
    """The rewards that models were trained on and that no metric measures.

    Args:
        settings: of the evaluation.

    Returns:
        The reward's name by the label of a model.

    Raises:
        ValueError: what `training_faults` tells.

    Example:
        See `flowbp.evaluate.execution.execute`.
    """
    known = trained_on(settings)
    rewards = {label: _reward(model) for label, model in settings.models.items()}
    return {
        label: str(reward["name"])
        for label, reward in rewards.items()
        if reward is not None and label not in known
    }


def training_faults(settings: EvaluateSettings) -> Found:
    """What is wrong with what models are said to be trained on, found before any is loaded.

    Args:
        settings: of the evaluation.

    Yields:
        The path of a key, and the fault.

    Example:
        See `flowbp.evaluate.loading.load`.
    """
    for label, model in settings.models.items():
        told = model.trained_on
        if told is not None and told not in settings.metrics:
            labels = ", ".join(settings.metrics) or "none"
            yield (
                ("models", label, "trained_on"),
                f"is {told!r}, and the metrics are {labels}; name one of these, or add it to them",
            )
        try:
            _reward(model)
        except ValueError as error:
            yield ("models", label, "checkpoint"), str(error)


def _of(model: ModelSection, metrics: Mapping[str, Any]) -> tuple[str, ...]:
    if model.trained_on is not None:
        return (model.trained_on,)
    reward = _reward(model)
    if reward is None:
        return ()
    wanted = list(_parts(reward))
    return tuple(
        label
        for label, metric in metrics.items()
        if any(_alike(_unwrapped(metric), each) for each in wanted)
    )


def _reward(model: ModelSection) -> Mapping[str, Any] | None:
    if model.checkpoint is None or model.trained_on is not None:
        return None
    folder = model.checkpoint.expanduser().absolute().parent
    path = folder.parent / _CONFIGURATION
    if folder.name != "checkpoints" or not path.is_file():
        return None
    try:
        reward = plain(read_file(path))["reward"]
        _ = reward["name"], list(_parts(reward))
    except (ConfigurationError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"is {str(model.checkpoint)!r}, and {path}, which says what it was trained on, cannot "
            f"be read ({type(error).__name__}: {error}); restore that file, or write `trained_on`"
        ) from error
    found: Mapping[str, Any] = reward
    return found


def _parts(reward: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """A reward, and those parts of a sum that were to rise."""
    yield reward
    if reward["name"] == "weighted":
        yield from (p["reward"] for p in reward["parts"].values() if p.get("weight", 1) > 0)


def _unwrapped(metric: Mapping[str, Any]) -> Mapping[str, Any]:
    nested = metric.get("reward")
    return nested if metric["name"] == "reward" and isinstance(nested, Mapping) else metric


def _alike(one: Any, other: Any) -> bool:
    """Whether two rewards prefer the same pictures, as far as both give a key."""
    if not (isinstance(one, Mapping) and isinstance(other, Mapping)):
        return bool(one == other)
    if "name" not in one and one.keys() != other.keys():
        return False
    shared = (one.keys() & other.keys()) - _SAME_LIKING
    return one.get("name") == other.get("name") and all(_alike(one[k], other[k]) for k in shared)
