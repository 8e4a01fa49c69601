"""The pictures that are still missing, model by model from the same noise."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import attrs

from flowbp.cli.evaluate.container import EvaluationContainer
from flowbp.cli.evaluate.fingerprint import Digests
from flowbp.cli.evaluate.metric_calls import EvaluateError, free_memory, reason
from flowbp.cli.evaluate.models import applied, cheapest_first, damage, missing_load
from flowbp.cli.evaluate.pictures import (
    IMAGES,
    ORIGIN,
    ForeignPictureError,
    Shot,
    picture_path,
    read_picture,
    shots_by_seed,
    write_picture,
    written_behind,
)
from flowbp.cli.evaluate.resume import origin, refuse_changed, write_identity
from flowbp.cli.evaluate.settings import EvaluateSettings, ModelSection
from flowbp.cli.progress import report_progress
from flowbp.cli.prompt_encoding import encode_prompts
from flowbp.cli.trial_calls import as_problem_of
from flowbp.component_errors import during
from flowbp.config import ConfigurationError, Problem
from flowbp.evaluation import HeldOut, generate_batches, sampling_facts


@attrs.frozen
class Missing:
    """Which pictures of a model and a seed are to be made."""

    shots: Sequence[Shot]
    numbers: frozenset[int]

    def wanted(self, chosen: slice) -> bool:
        """Whether a batch holds a picture that is to be made."""
        return any(number in self.numbers for number in range(chosen.start, chosen.stop))


def generate_missing(container: EvaluationContainer) -> None:
    """Sample and write all pictures that are not there and whole; no model is loaded for none."""
    # A batch of which a picture is missing is sampled whole, so that numbers round as they would
    # have in one go; of its pictures only the missing ones are written.
    settings = container.settings()
    folder = settings.evaluation.folder
    try:
        missing = {
            label: _missing(settings, label, container.prompts(), container.digests())
            for label in settings.models
        }
    except ForeignPictureError as error:
        raise EvaluateError(str(error)) from error
    to_do = sum(len(each.numbers) for found in missing.values() for each in found.values())
    unused = _unused(settings, container.prompts())
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
    problems = missing_load(settings, container.backbone())
    if problems:
        raise ConfigurationError(problems)
    # Now, as loading may have fetched a newer commit from the hub.
    refuse_changed(settings, container.digests())
    texts = dict.fromkeys(prompt.text for prompt in container.prompts())
    if settings.sampling.guidance != 1:
        texts[settings.sampling.negative_prompt] = None
    with during("the encoding of the prompts"):
        encode_prompts(container.model(), tuple(texts), listed_in=folder)
    with report_progress("generating", to_do, unit="picture") as progress:
        done = 0
        for label in cheapest_first(settings.models):
            for made in _generated(container, label, missing[label]):
                done += made
                progress(done, to_do)
    _free(container)


def refuse_damaged(models: Mapping[str, ModelSection]) -> None:
    """Refuse checkpoints that are not, byte for byte, what a run saved."""
    found = ((label, damage(model)) for label, model in models.items())
    problems = [Problem(f"models.{label}.checkpoint", each, "") for label, each in found if each]
    if problems:
        raise ConfigurationError(problems)


def _missing(
    settings: EvaluateSettings, label: str, prompts: Sequence[HeldOut], digests: Digests
) -> Mapping[int, Missing]:
    found, folder = {}, settings.evaluation.folder
    there = any((folder / IMAGES / label).glob("*.png"))
    known = origin(settings, label, digests) if there else None
    for each in shots_by_seed(label, prompts, settings.evaluation.seeds):
        absent = (shot.number for shot in each if read_picture(folder, shot, known) is None)
        found[each[0].seed] = Missing(each, frozenset(absent))
    return found


def _unused(settings: EvaluateSettings, prompts: Sequence[HeldOut]) -> str | None:
    """A note of pictures that an earlier evaluation made, and this one does not have."""
    folder, seeds_of_ours = settings.evaluation.folder, settings.evaluation.seeds
    wanted = {
        picture_path(folder, label, number, seed)
        for label in settings.models
        for number in range(len(prompts))
        for seed in seeds_of_ours
    }
    others = [path for path in sorted((folder / IMAGES).glob("*/*.png")) if path not in wanted]
    if not others:
        return None
    models = sorted({path.parent.name for path in others} - set(settings.models))
    seeds = sorted({path.stem.rpartition("-")[2] for path in others}, key=lambda s: (len(s), s))
    seeds = [seed for seed in seeds if seed not in map(str, seeds_of_ours)]
    parts = {"seeds": seeds, "models": models}
    named = [f"{kind} {', '.join(names)}" for kind, names in parts.items() if names]
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
    write_identity(settings, label, container.digests())
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
    free_memory()


def _build(container: EvaluationContainer) -> None:
    for name, section in (("backbone", "backbone"), ("model", "embeddings")):
        with as_problem_of(section):
            container.providers[name]()
