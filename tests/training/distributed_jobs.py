"""What several processes do in the tests, by name; none of it is run in the tests' own process."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs

from flowbp.core import SampleClip
from flowbp.training import (
    Anchor,
    Averaging,
    Batching,
    Checkpoints,
    PromptList,
    Ranks,
    SavePolicy,
    Streams,
)
from flowbp.training.metrics import metrics_row

from .cases import GUIDANCE, METHODS
from .fakes import FakeBackbone, Recorder, gradients, make_step, make_trainer

TEXTS = tuple(f"prompt {number}" for number in range(7))
"""Seven, so that no batch divides them evenly."""


def single(backbone: FakeBackbone) -> FakeBackbone:
    """The backbone in float32."""
    backbone.module.float()
    backbone._paint = backbone._paint.float()
    encode, noise, sigmas = backbone.encode, backbone.noise, backbone.sigmas

    def encoded(prompts: Sequence[str]) -> Any:
        found = encode(prompts)
        return attrs.evolve(found, tensors={n: t.float() for n, t in found.tensors.items()})

    backbone.encode = encoded
    backbone.noise = lambda *of, **size: noise(*of, **size).float()
    backbone.sigmas = lambda *of, **size: sigmas(*of, **size).float()
    return backbone


def parts_of_step(
    method: str,
    guidance: str,
    batching: Sequence[Any],
    *,
    anchor: float | None = None,
    clip: float | None = None,
    float32: bool = False,
) -> dict[str, Any]:
    backbone = single(FakeBackbone()) if float32 else FakeBackbone()
    *sizes, portions = batching
    return {
        "backbone": backbone,
        "method": METHODS[method],
        "sampling": GUIDANCE[guidance],
        "batching": Batching(*sizes, **portions),
        "anchor": None if anchor is None else Anchor(anchor, backbone.reference()),
        "clip": None if clip is None else SampleClip(clip),
    }


def step(ranks: Ranks, cases: Sequence[Sequence[Any]], seed: int = 3) -> list[Any]:
    """One step of each of some cases: rewards by prompt, gradients, where the generators are."""
    found = []
    for positional, named in cases:
        made = make_step(**parts_of_step(*positional, **named), ranks=ranks)
        streams = Streams.of(seed)
        prompts = [f"prompt {number}" for number in range(made.total)]
        result = made(prompts, streams)
        ranks.sum_gradients(made.backbone.trainable().values())
        (rewards,) = ranks.gathered([result.rewards])
        found.append((rewards, gradients(made), streams.states()))
    return found


def train(
    ranks: Ranks,
    method: str,
    guidance: str,
    batching: Sequence[Any],
    *,
    steps: int = 3,
    averaging: bool = True,
    folder: str | None = None,
    resume: str | None = None,
    every: int | None = None,
    **named: Any,
) -> Any:
    """Train, and return metrics, parameters and observed rows."""
    made = make_step(**parts_of_step(method, guidance, batching, **named), ranks=ranks)
    recorder = Recorder()
    checkpoints = None
    if folder is not None:
        checkpoints = Checkpoints(Path(folder), SavePolicy(every=every))
    trainer = make_trainer(
        made,
        prompts=PromptList(TEXTS),
        steps=steps,
        clip=0.05,
        averaging=Averaging(0.5) if averaging else None,
        observers=[recorder],
        checkpoints=checkpoints,
    )
    done = trainer.run(resume=None if resume is None else Path(resume))
    rows = [metrics_row(row) for row in recorder.rows]
    return done, rows, made.backbone.state(), recorder.closed
