"""The objects of an evaluation, built from its settings; each can be replaced from Python."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from dependency_injector import containers, providers

from flowbp.adapters import Backbone, compile_backbone
from flowbp.configuration import Component
from flowbp.embeddings import cached
from flowbp.evaluate.digests import Digests
from flowbp.evaluate.pictures import Shot
from flowbp.evaluate.schema import EvaluateSettings
from flowbp.evaluation import HeldOut
from flowbp.rewards import Towers
from flowbp.settings import HeldOutSource, PointsByEmbedding, built_metric, chosen_device


def _backbone(component: Component[Backbone], *, compiled: bool, device: torch.device) -> Backbone:
    backbone = component.build(device=device)
    if compiled:
        compile_backbone(backbone)
    return backbone


def _listed(source: HeldOutSource) -> tuple[HeldOut, ...]:
    return source.prompts()


class EvaluationContainer(containers.DeclarativeContainer):
    """Everything that an evaluation needs, each part built once and when it is first asked for.

    Any provider can be overridden before: ``container.backbone.override(...)``.

    Args:
        settings: of the evaluation, `flowbp.evaluate.schema.EvaluateSettings`.

    Example:
        >>> from flowbp.evaluate.loading import load
        >>> typed = ["evaluation.folder=evaluations/new", "backbone.name=shapes",
        ...          "prompts={name: shapes, count: 12}", "metrics.likeness.name=shapes",
        ...          "sampling={steps: 4, height: 64, width: 64}"]
        >>> container = EvaluationContainer(settings=load(typed).settings)
        >>> len(container.prompts())
        12
    """

    settings: Any = providers.Dependency(instance_of=EvaluateSettings)
    device: Any = providers.Singleton(chosen_device, settings.provided.evaluation.device)
    backbone: Any = providers.Singleton(
        _backbone,
        settings.provided.backbone,
        compiled=settings.provided.evaluation.compile,
        device=device,
    )
    # The backbone as the evaluation uses it: every prompt is encoded once.
    model: Any = providers.Singleton(
        cached,
        backbone,
        settings.provided.embeddings.folder,
        batch=settings.provided.embeddings.batch,
    )
    # Of the files that models and metrics are read from.
    digests: Any = providers.Singleton(Digests, settings.provided.evaluation.folder)
    prompts: Any = providers.Singleton(_listed, settings.provided.prompts)
    # What several metrics read alike is loaded once.
    towers: Any = providers.Singleton(Towers)
    # What several metrics embed alike is embedded once.
    points: Any = providers.Singleton(PointsByEmbedding)
    # Called with a label and a component.
    metric: Any = providers.Factory(built_metric, device=device, towers=towers, points=points)


def shots(container: EvaluationContainer, label: str, seed: int) -> list[Shot]:
    """The pictures of one model from one seed, in the order of the prompts.

    Args:
        container: of the evaluation.
        label: of the model.
        seed: of the noise.

    Returns:
        One for each prompt.

    Example:
        See `all_shots`.
    """
    return [Shot(label, i, seed, prompt) for i, prompt in enumerate(container.prompts())]


def all_shots(container: EvaluationContainer, label: str) -> Iterator[list[Shot]]:
    """The pictures of one model, seed by seed.

    Args:
        container: of the evaluation.
        label: of the model.

    Yields:
        One list for each seed.

    Example:
        >>> from flowbp.evaluate.loading import load
        >>> typed = ["evaluation={folder: evaluations/new, seeds: [3, 4]}", "backbone.name=shapes",
        ...          "prompts={name: shapes, count: 2}",
        ...          "sampling={steps: 4, height: 64, width: 64}"]
        >>> container = EvaluationContainer(settings=load(typed).settings)
        >>> [[shot.name for shot in each] for each in all_shots(container, "base")]
        [['00000-3.png', '00001-3.png'], ['00000-4.png', '00001-4.png']]
    """
    for seed in container.settings().evaluation.seeds:
        yield shots(container, label, seed)
