"""The objects of an evaluation, built from its settings; each can be replaced from Python."""

from __future__ import annotations

from functools import partial

import torch
from dependency_injector import containers
from dependency_injector.providers import Dependency, Factory, Provider, Singleton

from flowbp.adapters import Backbone, compile_backbone, set_attention
from flowbp.cli.evaluate.fingerprint import Digests
from flowbp.cli.evaluate.settings import EvaluateSettings
from flowbp.config import Component
from flowbp.evaluation import HeldOut, Metric
from flowbp.prompts import CachedBackbone, HeldOutSource, cached
from flowbp.rewards import Towers
from flowbp.settings import PointsByEmbedding, built_metric, chosen_device
from flowbp.training import ALONE


def _backbone(
    component: Component[Backbone], *, attention: str, compiled: bool, device: torch.device
) -> Backbone:
    backbone = component.build(device=device)
    say = partial(print, flush=True)
    set_attention(backbone, attention, agree=ALONE.agreed, say=say, key="evaluation.attention")
    if compiled:
        compile_backbone(backbone)
    return backbone


def _listed(source: HeldOutSource) -> tuple[HeldOut, ...]:
    return source.prompts()


class EvaluationContainer(containers.DeclarativeContainer):
    """Everything that an evaluation needs, each part built once and when it is first asked for.

    Any provider can be overridden before: ``container.backbone.override(...)``.

    Example:
        >>> from flowbp.cli.evaluate.preflight import load
        >>> typed = ["evaluation.folder=evaluations/new", "backbone.name=shapes",
        ...          "prompts={name: shapes, count: 12}", "metrics.likeness.name=shapes",
        ...          "sampling={steps: 4, height: 64, width: 64}"]
        >>> container = EvaluationContainer(settings=load(typed).settings)
        >>> len(container.prompts())
        12
    """

    settings: Dependency[EvaluateSettings] = Dependency(instance_of=EvaluateSettings)
    device: Provider[torch.device] = Singleton(chosen_device, settings.provided.evaluation.device)
    backbone: Singleton[Backbone] = Singleton(
        _backbone,
        settings.provided.backbone,
        attention=settings.provided.evaluation.attention,
        compiled=settings.provided.evaluation.compile,
        device=device,
    )
    # The backbone as the evaluation uses it: every prompt is encoded once.
    model: Singleton[CachedBackbone] = Singleton(
        cached,
        backbone,
        settings.provided.embeddings.folder,
        batch=settings.provided.embeddings.batch,
    )
    # Of the files that models and metrics are read from.
    digests: Provider[Digests] = Singleton(Digests, settings.provided.evaluation.folder)
    prompts: Provider[tuple[HeldOut, ...]] = Singleton(_listed, settings.provided.prompts)
    # What several metrics read alike is loaded once.
    towers: Provider[Towers] = Singleton(Towers)
    # What several metrics embed alike is embedded once.
    points: Provider[PointsByEmbedding] = Singleton(PointsByEmbedding)
    # Called with a label and a component.
    metric: Provider[Metric] = Factory(built_metric, device=device, towers=towers, points=points)
