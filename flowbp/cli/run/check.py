"""`--check`: every check of a run, a call of each component that is there, and what would run."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from functools import partial
from typing import Any

import attrs
import torch

from flowbp.adapters import Backbone, DtypePolicy, Full, Lora, Tuning
from flowbp.adapters.capabilities import copy_for_saving_of
from flowbp.adapters.lora_layers import only_adapters_train
from flowbp.adapters.quantization import quantization_of
from flowbp.cli.rehearsal import (
    PICTURES,
    faults_of_call,
    made_up_pictures,
    try_backbone,
    try_judge,
    try_metric,
    try_observer,
    try_optimizer,
    try_reward,
)
from flowbp.cli.run.built_run import replaced_providers
from flowbp.cli.run.overview import overview
from flowbp.cli.run.predicted_memory import memory_bytes, peak_text
from flowbp.cli.run.results import guidance_scales
from flowbp.cli.run.resume import resumption
from flowbp.component_errors import is_ours
from flowbp.config import Component, ConfigurationError
from flowbp.config.partial import run_check
from flowbp.config.tree import Step, path_text
from flowbp.rewards import Towers
from flowbp.settings import (
    PointsByEmbedding,
    RunContainer,
    Settings,
    built_judge,
    built_metric,
    chosen_device,
)
from flowbp.settings.component_needs import Found, locations_read, reads
from flowbp.settings.device import Gpus, fault_of_device
from flowbp.settings.loader import problems_of
from flowbp.settings.preflight import SCORERS, Check, faults_of_sum, on_scorers, reading_checks
from flowbp.settings.unloaded_model import (
    META,
    named_model,
    picture_size_problems,
    warn_about_guidance,
)
from flowbp.training import AdamW, Launch, OptimizerRecipe
from flowbp.training.division import Division, Needs, chosen_division
from flowbp.training.prompts import drawn

Path = tuple[Step, ...]


def check(container: RunContainer, *, resume: bool = False, gpus: Gpus | None = None) -> None:
    """Print what a run would do, here or on `gpus`, and do nothing of it."""
    settings, replaced = container.settings(), replaced_providers(container)
    named = None if {"backbone", "tuned"} & set(replaced) else named_model(settings.backbone)
    known = named is not None and isinstance(container.tuning(), Full | Lora)
    planned = here = None
    if gpus is not None:
        planned, here = "cuda", "auto"
        # What is tried is tried on what is here.
        container.device.override(chosen_device(here))
    checks = [*reading_checks(replaced, planned), *trial_checks(replaced, here)]
    if not known:
        checks.append(partial(_model_of_others, container=container))
    problems, notes = list(problems_of(checks, settings)), list[str]()
    if resume:
        try:
            notes += resumption(settings, container.checkpoints(), replaced).notes
        except ConfigurationError as error:
            problems += error.problems
    if problems:
        raise ConfigurationError(problems)
    model = tuned_sketch(settings.backbone, container.tuning()) if known else container.tuned()
    problems += problems_of([partial(_optimizer_of, parameters=model.trainable())], settings)
    if problems:
        raise ConfigurationError(problems)
    processes = gpus.count if gpus else container.ranks().size
    launch = Launch(size=processes, local_size=processes) if gpus else Launch.of()
    optimizer, memory = container.optimizer(), gpus.memory if gpus else None
    trained = trained_parameters(model)
    found = division_of(settings, model, optimizer, launch, memory)
    peak = peak_text(container, model, found, gpus) if known else ""
    if gpus is not None:
        peak = f"predicted on {gpus}: {peak or 'not known of this model'}"
    shown = overview(
        settings,
        trained,
        replaced=replaced,
        processes=processes,
        division=found,
        copied=copy_for_saving_of(model) is not None,
        peak=peak,
    )
    print(shown)
    warn_about_guidance(named, guidance_scales(settings))
    print(*_places_read(settings, replaced), *notes, "checked; nothing was run", sep="\n")


def trial_checks(replaced: Collection[str] = (), on: str | None = None) -> tuple[Check, ...]:
    """Build and call what scores pictures, observes and optimizes, and says of no file it reads.

    On the run's device, unless another is given.
    """
    towers, points = Towers(), PointsByEmbedding()

    def try_scorer(settings: Settings, path: Path, component: Component[Any]) -> None:
        device = chosen_device(on or settings.run.device)
        images = made_up_pictures(settings.sampling, device)
        if path == ("reward",):
            reward = component.build(device=device, towers=towers)
            try_reward(reward, images, _texts(settings))
        elif settings.evaluation is not None:
            held_out = settings.evaluation.prompts.prompts()[:PICTURES]
            shown, label = images[: len(held_out)], str(path[-1])
            if path == ("judge",):
                judge = built_judge(component, device=device, towers=towers)
                try_judge(judge, shown, [prompt.text for prompt in held_out])
                return
            metric = built_metric(label, component, device=device, towers=towers, points=points)
            try_metric(label, metric, shown, held_out)

    def score(settings: Settings, path: Path, component: Component[Any]) -> Found:
        # What would only follow from what is reported by itself: a device that is not there, a size
        # that the model cannot draw, a sum that is wrong, prompts that cannot be drawn.
        wrong = any(fault_of_device("run", on or settings.run.device))
        if wrong or any(run_check(_sizes, settings)):
            return
        if path == ("reward",) and (any(faults_of_sum(settings)) or any(_prompts(settings))):
            return
        if not reads(component):
            yield from faults_of_call(path, partial(try_scorer, settings, path, component))

    return (_prompts, *on_scorers(score, replaced), _observers, _optimizer)


def _sizes(settings: Settings) -> Found:
    """What a folder says of the pictures' size; a hub out of reach is asked once, and not here."""
    named = named_model(settings.backbone)
    if named is not None and named.is_folder:
        yield from picture_size_problems(settings.backbone, settings.sampling)


def _texts(settings: Settings) -> list[str]:
    stream = iter(settings.prompts.stream(torch.Generator().manual_seed(0)))
    return list(drawn(settings.prompts, stream, PICTURES))


def _prompts(settings: Settings) -> Found:
    return faults_of_call(("prompts",), partial(_texts, settings))


def _observers(settings: Settings) -> Found:
    for number, other in enumerate(settings.observers.others):
        act = partial(try_observer, other, settings.training.steps)
        yield from faults_of_call(("observers", "others", number), act)


def _optimizer(settings: Settings) -> Found:
    parameters = {"weight": torch.nn.Parameter(torch.zeros(8, 8))}
    return faults_of_call(("optimizer",), partial(try_optimizer, settings.optimizer, parameters))


def _optimizer_of(settings: Settings, parameters: Mapping[str, torch.nn.Parameter]) -> Found:
    """What an optimizer refuses of the model's own parameters, such as a shape."""
    return faults_of_call(("optimizer",), partial(settings.optimizer.build, parameters.values()))


def _model_of_others(settings: Settings, *, container: RunContainer) -> Found:
    """Load a model that says nothing before, and have one of others draw a picture."""

    def draw() -> None:
        model = container.tuned()
        if not (is_ours(model) or container.backbone.overridden):
            try_backbone(model, settings.sampling, "a circle")

    built = list(faults_of_call(("backbone",), container.backbone))
    built = built or list(faults_of_call(("tuning",), container.tuned))
    yield from built or faults_of_call(("backbone",), draw)


def tuned_sketch(backbone: Component[Backbone], tuning: Tuning) -> Backbone:
    """A known model with what is trained of it chosen, but without its weights."""
    return tuning(backbone.build(device=META), generator=torch.Generator())


def division_of(
    settings: Settings,
    model: Backbone,
    optimizer: OptimizerRecipe,
    launch: Launch | None = None,
    memory: int | None = None,
) -> tuple[Division, Needs]:
    """How the model is divided, and what it needs; of others' optimizers as much as AdamW.

    Among the processes of this launch on the device here, unless others are given.
    """
    averaging = settings.training.averaging
    known = optimizer if is_ours(optimizer) else AdamW()
    needs = Needs.of(model.module, model.trainable(), known, averaging)
    if settings.anchor is not None:
        needs = attrs.evolve(needs, reference=_reference_bytes(model))
    if memory is None:
        memory = memory_bytes(chosen_device(settings.run.device))
    launch = Launch.of() if launch is None else launch
    # Frozen weights of few bits are whole on each process, see `settings.preflight`.
    whole = quantization_of(model.module) is not None
    return chosen_division(1 if whole else settings.distributed.shard, needs, launch, memory), needs


def _reference_bytes(model: Backbone) -> int:
    """What the frozen copy takes that an anchor compares with; a LoRA's base is there already."""
    if only_adapters_train(model.module):
        return 0
    policy = getattr(model, "policy", None)
    parameters = model.module.parameters()
    if not isinstance(policy, DtypePolicy):
        return sum(each.nbytes for each in parameters)
    return sum(each.numel() * policy.frozen.weights.itemsize for each in parameters)


def trained_parameters(backbone: Backbone) -> int:
    """Count the parameters that training changes."""
    return sum(parameter.numel() for parameter in backbone.trainable().values())


def _places_read(settings: Settings, replaced: Collection[str]) -> list[str]:
    """From where they are read, how large that is and whether it is here, as lines."""
    named = None if {"backbone", "tuned"} & set(replaced) else named_model(settings.backbone)
    files = {} if named is None else named.locations
    return [
        *(f"  backbone.{key} reads {place}" for key, place in files.items()),
        *(
            f"  {path_text(path)} reads {place}"
            for provider, scorers in SCORERS.items()
            if provider not in replaced
            for path, component in scorers(settings)
            for place in locations_read(component)
        ),
    ]
