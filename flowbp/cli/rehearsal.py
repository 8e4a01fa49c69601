"""Trial calls of a run's components on two made-up pictures, before anything long begins."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from flowbp.adapters import Backbone, Loadable
from flowbp.adapters.capabilities import frozen_parts_of
from flowbp.component_errors import (
    ComponentError,
    calling,
    dotted_path,
    during,
    foreign_error,
    foreign_frames,
    is_ours,
    passes,
    shown,
    wrong,
)
from flowbp.config import Component, ConfigurationError, Problem
from flowbp.config.protocols import differing
from flowbp.config.tree import Step
from flowbp.evaluation import (
    HeldOut,
    JudgeMetric,
    PictureSet,
    RewardMetric,
    Sampling,
    generate,
    is_of_sets,
)
from flowbp.evaluation.metric_runner import columns_of_pictures, columns_of_set
from flowbp.evaluation.reward_metrics import judged
from flowbp.extras import require
from flowbp.files import saving
from flowbp.memory_errors import is_out_of_memory
from flowbp.prompts import CachedBackbone, MemoryStore
from flowbp.rewards import Reward, UncalibratedReward
from flowbp.rewards.reward import in_parts
from flowbp.settings import REHEARSAL
from flowbp.settings.component_needs import Found
from flowbp.settings.unloaded_model import PictureSize
from flowbp.training import HeldOutMetrics, Metrics, OptimizerRecipe
from flowbp.training.frozen_files import FrozenFiles
from flowbp.training.observers import FurtherEvents, notify
from flowbp.training.optimizer_classes import rehearsing
from flowbp.training.packing import pack, unpack
from flowbp.training.randomness import kept

CPU = torch.device("cpu")

PICTURES = 2
"""How many pictures are scored together, so that a wrong shape shows."""


def made_up_pictures(size: PictureSize, device: torch.device, *, count: int = PICTURES) -> Tensor:
    """Smooth pictures of random colours, away from black and white."""
    coarse = torch.rand((count, 3, 4, 4), generator=torch.Generator().manual_seed(0))
    sides = (size.height, size.width)
    smooth = torch.nn.functional.interpolate(coarse, size=sides, mode="bilinear")
    return (0.2 + 0.6 * smooth).to(device)


@contextmanager
def trying(what: str, device: torch.device) -> Iterator[None]:
    """Try something of others: torch's random numbers stay, and short memory is no failure."""
    try:
        with kept(device), during(f"the rehearsal of {what} before the run"):
            yield
    except Exception as error:
        # The run has smaller portions, and says itself where even they do not fit.
        if not is_out_of_memory(error):
            raise


def try_reward(reward: Reward | UncalibratedReward, images: Tensor, prompts: Sequence[str]) -> None:
    """Score pictures, and send the gradient back to them."""
    if isinstance(reward, UncalibratedReward):
        for label, part in reward.parts.items():
            _try_gradient(part.reward, images, prompts, f"reward's part `{label}`")
    else:
        _try_gradient(reward, images, prompts, "reward")


def _try_gradient(reward: Reward, images: Tensor, prompts: Sequence[str], kind: str) -> None:
    with trying(f"the {kind}", images.device), torch.enable_grad():
        x = images.clone().requires_grad_()
        # A step of its own, as pictures come from a decoder: they may be changed in place.
        scores = in_parts(reward, x * 1, list(prompts), kind=kind).scores
        if not scores.isfinite().all():
            problem = f"must return finite scores, got {scores.tolist()} for two random pictures"
            raise wrong(kind, reward, problem, prompts)
        with calling(f"gradient of the {kind}", reward, prompts):
            (gradient,) = torch.autograd.grad(scores.sum(), x, allow_unused=True)
        if gradient is None:
            problem = (
                "must be differentiable with respect to the pictures, got scores that do not "
                "depend on any"
            )
            raise wrong(kind, reward, problem, prompts)
        if not gradient.isfinite().all():
            problem = (
                "has a gradient that is not finite at random pictures; add an eps, or .float()"
            )
            raise wrong(kind, reward, problem, prompts)


def try_judge(judge: Any, images: Tensor, prompts: Sequence[str]) -> None:
    """Have pictures judged."""
    with trying("the judge", images.device):
        judged(images, list(prompts), judge)


def try_metric(label: str, metric: Any, images: Tensor, prompts: Sequence[HeldOut]) -> None:
    """Have a metric judge pictures; what the library has besides rewards and judges is left out."""
    if is_ours(metric) and not isinstance(metric, RewardMetric | JudgeMetric):
        return
    count = len(images)
    with trying(f"the metric `{label}`", images.device):
        if not is_of_sets(metric):
            columns_of_pictures(metric, images, prompts, batch=count, label=label)
            return
        numbers, seeds = range(count), [0] * count
        model, base = (
            PictureSet(label=of, prompts=prompts, numbers=numbers, seeds=seeds, pictures=images)
            for of in ("a model", "the base")
        )
        columns_of_set(metric, model, base, label=label)


def try_backbone(backbone: Backbone, sampling: Any, prompt: str) -> None:
    """Sample a picture in two steps, the fewest that every grid has."""
    kept = CachedBackbone(backbone, MemoryStore(), batch=1)
    with trying("the backbone", backbone.device):
        few = Sampling(steps=2, height=sampling.height, width=sampling.width)
        (picture,) = generate(kept, [prompt], 0, few)
        if picture.shape[1:] != (sampling.height, sampling.width):
            must = f"must draw pictures of {sampling.height}x{sampling.width} pixels"
            raise wrong("backbone", backbone, f"{must}, got {shown(picture)}")
        if not picture.isfinite().all() or picture.amin() < 0 or picture.amax() > 1:
            problem = (
                f"must decode pictures in [0, 1], got {picture.amin():g} to {picture.amax():g}"
            )
            raise wrong("backbone", backbone, problem)


def try_observer(component: Component[Any], steps: int) -> None:
    """Build an observer in a folder that is removed afterwards, and close it."""
    with tempfile.TemporaryDirectory() as folder, trying("the observers", CPU):
        observer: Any = component.build(folder=Path(folder), steps=steps, configuration={})
        try:
            unlike = differing(observer, FurtherEvents)
            if unlike:
                raise wrong("observer", observer, unlike)
            if component.takes("folder"):
                for event, *values in _EVENTS:
                    notify([observer], event, *values)
        finally:
            notify([observer], "close")


_ROW = Metrics(
    step=1,
    reward=0.5,
    reward_std=0.1,
    loss=-0.5,
    gradient_norm=1.0,
    learning_rate=1e-4,
    residuals=(0.0, None),
    velocity_calls=4,
    seconds=1.0,
)
_ROWS = (HeldOutMetrics(step=1, means={"reward": 0.5}),)
_EVENTS: Sequence[tuple[Any, ...]] = (
    ("begin", ()),
    ("pictures", 0, torch.full((1, 3, 16, 16), 0.5), ("a circle",)),
    ("row", _ROW),
    ("evaluations", _ROWS),
)


def try_scorers(
    reward: Any,
    judge: Any,
    metrics: Mapping[str, Any],
    *,
    images: Tensor,
    training: Sequence[str],
    held_out: Sequence[HeldOut],
) -> None:
    """Try all that scores pictures in a run."""
    try_reward(reward, images, training)
    shown = list(held_out[: len(images)])
    if judge is not None and shown:
        try_judge(judge, images[: len(shown)], [prompt.text for prompt in shown])
    for label, metric in metrics.items() if shown else ():
        try_metric(label, metric, images[: len(shown)], shown)


@contextmanager
def saving_tried(backbone: Backbone, folder: Path) -> Iterator[FrozenFiles]:
    """Save a backbone, read back what was saved, and compare it with what is trained.

    Within the block those of its files stay in the folder that are the same in every checkpoint.
    """
    with _place(folder) as place:
        with during("the rehearsal of saving before the run"):
            _try_saving(backbone, place)
        frozen, parts = FrozenFiles(), frozen_parts_of(backbone)
        for path in place.iterdir():
            if path.name not in parts:
                own = path.is_dir() and not path.is_symlink()
                (shutil.rmtree if own else Path.unlink)(path)
        frozen.remember(place, parts)
        yield frozen


def _try_saving(backbone: Backbone, place: Path) -> None:
    if is_ours(backbone):
        with saving(place, "and no run was begun"):
            backbone.save(place)
        _compare_files(backbone, place)
        return
    with calling("backbone", backbone):
        backbone.save(place)
    if not any(path.is_file() and path.stat().st_size for path in place.rglob("*")):
        raise wrong("backbone", backbone, "must write files in `save`, and wrote none")
    if isinstance(backbone, Loadable):
        _compare_loaded(backbone, place)


def try_optimizer(recipe: OptimizerRecipe, parameters: Mapping[str, nn.Parameter]) -> None:
    """Take a step on a copy of the smallest parameter, and save and load the optimizer's state."""
    smallest = min(parameters.values(), key=lambda parameter: parameter.numel())
    copy = nn.Parameter(smallest.detach().clone())
    named = getattr(recipe, "target", recipe)
    with (
        during("the rehearsal of the optimizer before the run"),
        calling("optimizer", named),
        rehearsing(),
    ):
        # All of them, because it may not be for every shape.
        recipe.build(parameters.values())
        optimizer = recipe.build([copy])
        if not isinstance(optimizer, torch.optim.Optimizer):
            # What trains says so.
            return
        copy.grad = torch.zeros_like(copy)
        optimizer.step()
        tensors: dict[str, Tensor] = {}
        packed = pack(optimizer.state_dict(), "state", tensors)
        recipe.build([copy]).load_state_dict(unpack(packed, tensors))


def try_divided_optimizer(recipe: OptimizerRecipe, mesh: Any, device: torch.device) -> None:
    """Take a step on a parameter that processes share unevenly; all of them do so together."""
    from torch.distributed.tensor import Shard, distribute_tensor

    shards = mesh["shard"]
    like = torch.ones(2 * shards.size() + 1, 3, device=device)
    parameter, gradient = (
        distribute_tensor(like, shards, [Shard(0)], src_data_rank=None) for _ in range(2)
    )
    copy = nn.Parameter(parameter)
    copy.grad = gradient
    try:
        with rehearsing():
            recipe.build([copy]).step()
    # The optimizer is anybody's, and may raise anything.
    except Exception as error:
        name = dotted_path(getattr(recipe, "target", recipe))
        why = f"{type(error).__name__}: {error}".splitlines()[0]
        message = (
            f"is {name}, which cannot train a model that processes share ({why}); write "
            "distributed.shard=1 if the model fits, or take another, such as adamw, adamw_8bit or "
            "schedule_free"
        )
        raise ConfigurationError([Problem("optimizer", message, "", error)]) from error


@contextmanager
def _place(folder: Path) -> Iterator[Path]:
    place = folder / REHEARSAL
    # A process before this one may have been killed here.
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    try:
        yield place
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _compare_files(backbone: Backbone, place: Path) -> None:
    parameters, module = dict(backbone.trainable()), backbone.module
    scales = {
        f"{name}.lora_B": layer.scaling
        for name, layer in module.named_modules()
        if isinstance(getattr(layer, "scaling", None), Mapping)
    }
    # A whole pipeline has its transformer in a folder; an adapter's file lies there alone.
    for path in sorted((*place.glob("*.safetensors"), *place.glob("transformer/*.safetensors"))):
        with require("safetensors").safe_open(path, "pt") as file:
            for key in file.keys():  # noqa: SIM118 (it is no mapping)
                name = _trained_name(key, parameters)
                if name is None:
                    continue
                parameter = parameters.pop(name).detach()
                scaled = [s for layer, s in scales.items() if name.startswith(layer)]
                factors = {factor for each in scaled for factor in each.values()}
                if not _same(file.get_tensor(key), parameter, factors):
                    raise wrong("backbone", backbone, f"saved other values of `{name}` than it has")
    if parameters:
        name = next(iter(parameters))
        problem = f"saved without {len(parameters)} of its trained parameters, such as `{name}`"
        raise wrong("backbone", backbone, problem)


def _trained_name(key: str, parameters: Mapping[str, Any]) -> str | None:
    # An adapter's tensors are under the transformer's name and without the adapter's.
    plain = key.removeprefix("transformer.")
    layer, found, rest = plain.partition(".lora_")
    side, _, weight = rest.partition(".")
    names = [key, f"{layer}.lora_{side}.default.{weight}"] if found else [key]
    return next((name for name in names if name in parameters), None)


def _same(saved: Tensor, parameter: Tensor, factors: set[Any]) -> bool:
    trained = parameter.to("cpu")
    if saved.shape != trained.shape:
        return False
    # The scale of an adapter may have been folded into what is saved.
    return any(torch.equal(saved, (trained * f).to(saved.dtype)) for f in {1.0, *factors})


def _compare_loaded(backbone: Any, place: Path) -> None:
    parameters = backbone.trainable()
    before = {name: each.detach().to("cpu", copy=True) for name, each in parameters.items()}
    with calling("backbone", backbone):
        backbone.load(place)
    now = backbone.trainable()
    if now.keys() != before.keys():
        problem = "has other trained parameters after `load` of what `save` wrote"
        raise wrong("backbone", backbone, problem)
    changed = [n for n, was in before.items() if not torch.equal(now[n].detach().to("cpu"), was)]
    if changed:
        with torch.no_grad():
            for name, was in before.items():
                now[name].copy_(was)
        problem = (
            f"has other values after `load` of what `save` wrote, in {len(changed)} of "
            f"{len(before)} trained parameters, the first being `{changed[0]}`"
        )
        raise wrong("backbone", backbone, problem)


def building_problem(section: str, error: BaseException) -> Problem:
    """What building a component raised; raises it where it is to reach who can deal with it."""
    message = None if isinstance(error, ComponentError) else _described(error)
    if message is None:
        raise error
    return Problem(section, message, "", error)


@contextmanager
def as_problem_of(section: str) -> Iterator[None]:
    """Raise what building a component raises as a problem of its section."""
    try:
        yield
    # It runs code of others, which may raise anything.
    except BaseException as error:
        raise ConfigurationError([building_problem(section, error)]) from error


def faults_of_call(path: tuple[Step, ...], act: Callable[[], object]) -> Found:
    """What a trial call raises, as a fault at its keys, with the frames of others' code."""
    try:
        act()
    except BaseException as error:
        message = _described(error)
        if message is None:
            raise
        yield path, "\n  ".join([message, *foreign_frames(error)])


def _described(error: BaseException) -> str | None:
    """An error of a component in words; None of what no component of others can be blamed for."""
    named = error if isinstance(error, ComponentError) else foreign_error(error)
    ours = isinstance(error, ValueError | TypeError | OSError | ImportError)
    if not (ours or named is error) and (passes(error) or named is None):
        return None
    # What names code of others has its notes in it.
    notes = () if named not in (None, error) else getattr(error, "__notes__", ())
    return "; ".join([str(named or error), *notes])
