"""Clauses that the overviews of both commands have."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from flowbp.adapters import MODEL_GRID
from flowbp.evaluation import Sampling as EvaluationSampling
from flowbp.settings import EmbeddingSettings, resolved_values
from flowbp.training import TrainingSampling


def grid_text(sampling: EvaluationSampling | TrainingSampling) -> str:
    """Which sigmas the steps have, as a clause to come after their number."""
    if sampling.grid == MODEL_GRID:
        return " on the model's own grid"
    tree = resolved_values(sampling)["grid"]
    grid = words({k: "the model's" if v is None else v for k, v in tree.items()})
    known = sampling.grid.known(sampling.steps)
    return f" on the grid {grid}" + (
        "" if known is None else f", last sigma {known[-2].item():.4f}"
    )


def embeddings_text(settings: EmbeddingSettings) -> str:
    """Where text embeddings are kept."""
    place = "in memory" if settings.folder is None else f"in {settings.folder}, shared by all runs"
    together = "one at a time" if settings.batch == 1 else f"{settings.batch} together"
    return f"{place}, prompts encoded {together}"


def words(value: Any) -> str:
    """A value of a configuration in a line; a component by its name and arguments."""
    if isinstance(value, list):
        return f"[{', '.join(map(words, value))}]"
    if not isinstance(value, Mapping):
        return "none" if value is None else str(value)
    rest = pairs({key: item for key, item in value.items() if key != "name"})
    if "name" not in value:
        return f"({rest})"
    return f"{value['name']} ({rest})" if rest else str(value["name"])


def pairs(mapping: Mapping[str, Any]) -> str:
    """Keys and values in a line."""
    return ", ".join(f"{key} {words(item)}" for key, item in mapping.items())
