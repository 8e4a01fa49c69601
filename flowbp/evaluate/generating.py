"""The pictures that are still missing, model by model from the same noise."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import attrs

from flowbp.components import blamed, during
from flowbp.configuration import ConfigurationError, Problem
from flowbp.evaluate.ahead import written_behind
from flowbp.evaluate.container import EvaluationContainer, all_shots
from flowbp.evaluate.failing import EvaluateError, reason
from flowbp.evaluate.memory import release
from flowbp.evaluate.models import applied, cheapest_first, damage, unloadable
from flowbp.evaluate.pictures import (
    IMAGES,
    ORIGIN,
    ForeignPictureError,
    Shot,
    read_picture,
    write_picture,
)
from flowbp.evaluate.resuming import keep_identity, origin, refuse_changed
from flowbp.evaluate.schema import ModelSection
from flowbp.evaluation import generate_batches, sampling_facts
from flowbp.run.encoding import encode_all
from flowbp.run.telling import told_progress


@attrs.frozen
class Missing:
    """Which pictures of a model and a seed are to be made.

    Args:
        shots: of all prompts.
        numbers: of the pictures that are missing or damaged.

    Example:
        >>> Missing([], frozenset([3])).wanted(slice(0, 4))
        True
    """

    shots: Sequence[Shot]
    numbers: frozenset[int]

    def wanted(self, chosen: slice) -> bool:
        """Whether a batch holds a picture that is to be made."""
        return any(number in self.numbers for number in range(chosen.start, chosen.stop))


def generate_missing(container: EvaluationContainer) -> None:
    """Sample and write all pictures that are not there and whole; no model is loaded for none.

    A batch of which a picture is missing is sampled whole, so that figures round as they would
    have in one go; of its pictures only the missing ones are written.

    Args:
        container: of the evaluation, whose folder is this process's.

    Raises:
        ConfigurationError: the backbone cannot be built from its settings, or a checkpoint is
            damaged.
        EvaluateError: a picture is of another evaluation, or a checkpoint of another model.
        OSError: a picture cannot be written.

    Example:
        See `flowbp.evaluate.execution.execute`.
    """
    settings = container.settings()
    folder = settings.evaluation.folder
    try:
        missing = {label: _missing(container, label, folder) for label in settings.models}
    except ForeignPictureError as error:
        raise EvaluateError(str(error)) from error
    to_do = sum(len(each.numbers) for found in missing.values() for each in found.values())
    unused = _unused(container, folder)
    if unused:
        print(unused, flush=True)
    total = len(container.prompts()) * len(settings.evaluation.seeds) * len(settings.models)
    if total > to_do:
        print(f"{total - to_do} of {total} pictures are there", flush=True)
    if not to_do:
        return
    refuse_damaged(
        {
            label: settings.models[label]
            for label, found in missing.items()
            if any(each.numbers for each in found.values())
        }
    )
    _build(container)
    problems = unloadable(settings, container.backbone())
    if problems:
        raise ConfigurationError(problems)
    # Now, as loading may have fetched a newer commit from the hub.
    refuse_changed(settings, container.digests())
    texts = dict.fromkeys(prompt.text for prompt in container.prompts())
    if settings.sampling.guidance != 1:
        texts[settings.sampling.negative_prompt] = None
    with during("the encoding of the prompts"):
        encode_all(container.model(), tuple(texts), listed_in=folder)
    with told_progress("generating", to_do, unit="picture") as progress:
        done = 0
        for label in cheapest_first(settings.models):
            for made in _generated(container, label, missing[label]):
                done += made
                progress(done, to_do)
    _free(container)


def refuse_damaged(models: Mapping[str, ModelSection]) -> None:
    """Refuse checkpoints that are not, byte for byte, what a run saved.

    Args:
        models: by label.

    Raises:
        ConfigurationError: with all of them.

    Example:
        >>> refuse_damaged({"base": ModelSection()})
    """
    found = ((label, damage(model)) for label, model in models.items())
    problems = [Problem(f"models.{label}.checkpoint", each, "") for label, each in found if each]
    if problems:
        raise ConfigurationError(problems)


def _missing(container: EvaluationContainer, label: str, folder: Path) -> Mapping[int, Missing]:
    found = {}
    there = any((folder / IMAGES / label).glob("*.png"))
    known = origin(container.settings(), label, container.digests()) if there else None
    for each in all_shots(container, label):
        absent = (shot.number for shot in each if read_picture(folder, shot, known) is None)
        found[each[0].seed] = Missing(each, frozenset(absent))
    return found


def _unused(container: EvaluationContainer, folder: Path) -> str | None:
    """What is said of pictures that an evaluation before this one made, and this one has not."""
    settings = container.settings()
    shots = itertools.chain(*(s for label in settings.models for s in all_shots(container, label)))
    wanted = {shot.path(folder) for shot in shots}
    others = [path for path in sorted((folder / IMAGES).glob("*/*.png")) if path not in wanted]
    if not others:
        return None
    models = sorted({path.parent.name for path in others} - set(settings.models))
    seeds = sorted({path.stem.rpartition("-")[2] for path in others}, key=lambda s: (len(s), s))
    seeds = [seed for seed in seeds if seed not in map(str, settings.evaluation.seeds)]
    named = [f"seeds {', '.join(seeds)}"] * bool(seeds) + [f"models {', '.join(models)}"] * bool(
        models
    )
    of = f" of {' and '.join(named)}" if named else ""
    return f"{len(others)} pictures{of} stay in {folder / IMAGES} and are in no score"


def _generated(
    container: EvaluationContainer, label: str, missing: Mapping[int, Missing]
) -> Iterator[int]:
    """How many pictures each batch made."""
    if not any(each.numbers for each in missing.values()):
        return
    settings = container.settings()
    folder, model = settings.evaluation.folder, settings.models[label]
    keep_identity(settings, label, container.digests())
    texts = [prompt.text for prompt in container.prompts()]
    try:
        with (
            during(f"the sampling of the model `{label}`"),
            written_behind(write_picture) as write,
            applied(container.backbone(), model),
        ):
            facts = {
                **sampling_facts(container.backbone(), settings.sampling),
                ORIGIN: origin(settings, label, container.digests()),
            }
            for seed, each in missing.items():
                for chosen, images in generate_batches(
                    container.model(), texts, seed, settings.sampling, wanted=each.wanted
                ):
                    made = [
                        (folder, shot, image, facts)
                        for shot, image in zip(each.shots[chosen], images.cpu(), strict=True)
                        if shot.number in each.numbers
                    ]
                    write(made)
                    yield len(made)
    except (ValueError, TypeError) as error:
        raise EvaluateError(f"the model `{label}` stopped: {reason(error)}") from error


def _free(container: EvaluationContainer) -> None:
    # Metrics may need the memory.
    container.model.reset()
    container.backbone.reset()
    release()


def _build(container: EvaluationContainer) -> None:
    for name, section in (("backbone", "backbone"), ("model", "embeddings")):
        try:
            container.providers[name]()
        except (ValueError, TypeError, OSError, ModuleNotFoundError) as error:
            raise ConfigurationError([Problem(section, str(blamed(error) or error), "")]) from error
