"""The pictures that are still missing, model by model from the same noise."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import attrs

from flowbp.adapters import Backbone
from flowbp.cli.evaluate.fingerprint import Digests
from flowbp.cli.evaluate.measurement import EvaluateError, error_text
from flowbp.cli.evaluate.models import applied, cheapest_first, damage, load_fault
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
from flowbp.cli.evaluate.resume import read_fingerprint, refuse_changed, write_fingerprint
from flowbp.cli.evaluate.settings import EvaluateSettings, ModelSection
from flowbp.cli.progress import report_progress
from flowbp.cli.prompt_encoding import encode_prompts
from flowbp.component_errors import during
from flowbp.config import ConfigurationError, Problem
from flowbp.evaluation import HeldOut, generate_batches, sampling_facts
from flowbp.prompts import CachedBackbone


@attrs.frozen
class MissingPictures:
    """Which pictures of a model and a seed are to be made."""

    shots: Sequence[Shot]
    numbers: frozenset[int]

    def wanted(self, chosen: slice) -> bool:
        """Whether a batch holds a picture that is to be made."""
        return any(number in self.numbers for number in range(chosen.start, chosen.stop))


Missing = Mapping[str, Sequence[MissingPictures]]
"""By model those of each seed; nothing of a model that has all its pictures."""


def missing_pictures(settings: EvaluateSettings, prompts: Sequence[HeldOut]) -> Missing:
    """What is not there and whole; prints what is there, and what of it is in no score."""
    try:
        found = {label: _missing(settings, label, prompts) for label in settings.models}
    except ForeignPictureError as error:
        raise EvaluateError(str(error)) from error
    unused = _unused(settings, prompts)
    if unused:
        print(unused, flush=True)
    missing = {label: each for label, each in found.items() if _count(each)}
    total = len(prompts) * len(settings.evaluation.seeds) * len(settings.models)
    there = total - sum(map(_count, missing.values()))
    if there:
        print(f"{there} of {total} pictures are there", flush=True)
    refuse_damaged({label: settings.models[label] for label in missing})
    return missing


def generate_missing(
    settings: EvaluateSettings,
    missing: Missing,
    backbone: Backbone,
    model: CachedBackbone,
    digests: Digests,
) -> None:
    """Sample and write all pictures that are missing; `model` is the backbone with its cache."""
    # A batch of which a picture is missing is sampled whole, so that numbers round as they would
    # have in one go; of its pictures only the missing ones are written.
    fault = load_fault(settings, backbone)
    if fault is not None:
        raise ConfigurationError([Problem("backbone", fault, "")])
    # Now, as loading may have fetched a newer commit from the hub.
    refuse_changed(settings, digests)
    shots = next(iter(missing.values()))[0].shots
    texts = dict.fromkeys(shot.prompt.text for shot in shots)
    if settings.sampling.guidance != 1:
        texts[settings.sampling.negative_prompt] = None
    with during("the encoding of the prompts"):
        encode_prompts(model, tuple(texts), listed_in=settings.evaluation.folder)
    to_do, done = sum(map(_count, missing.values())), 0
    with report_progress("generating", to_do, unit="picture") as progress:
        for label in cheapest_first(settings.models):
            if label not in missing:
                continue
            origin = write_fingerprint(settings, label, digests)
            for made in _generated(settings, label, missing[label], backbone, model, origin):
                done += made
                progress(done, to_do)


def refuse_damaged(models: Mapping[str, ModelSection]) -> None:
    """Refuse checkpoints that are not, byte for byte, what a run saved."""
    found = ((label, damage(model)) for label, model in models.items())
    problems = [Problem(f"models.{label}.checkpoint", each, "") for label, each in found if each]
    if problems:
        raise ConfigurationError(problems)


def _count(missing: Sequence[MissingPictures]) -> int:
    return sum(len(each.numbers) for each in missing)


def _missing(
    settings: EvaluateSettings, label: str, prompts: Sequence[HeldOut]
) -> Sequence[MissingPictures]:
    found, folder = [], settings.evaluation.folder
    made = read_fingerprint(folder, label)
    origin = None if made is None else made.origin
    for shots in shots_by_seed(label, prompts, settings.evaluation.seeds):
        absent = (shot.number for shot in shots if read_picture(folder, shot, origin) is None)
        found.append(MissingPictures(shots, frozenset(absent)))
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
    seeds = {path.stem.rpartition("-")[2] for path in others} - set(map(str, seeds_of_ours))
    parts = {"seeds": sorted(seeds, key=lambda seed: (len(seed), seed)), "models": models}
    named = [f"{kind} {', '.join(names)}" for kind, names in parts.items() if names]
    of = f" of {' and '.join(named)}" if named else ""
    return f"{len(others)} pictures{of} stay in {folder / IMAGES} and are in no score"


def _generated(
    settings: EvaluateSettings,
    label: str,
    missing: Sequence[MissingPictures],
    backbone: Backbone,
    model: CachedBackbone,
    origin: str,
) -> Iterator[int]:
    """How many pictures each batch made."""
    folder, sampling = settings.evaluation.folder, settings.sampling
    try:
        with (
            during(f"the sampling of the model `{label}`"),
            written_behind(write_picture) as write,
            applied(backbone, settings.models[label]),
        ):
            facts = {**sampling_facts(backbone, sampling), ORIGIN: origin}
            for each in missing:
                texts = [shot.prompt.text for shot in each.shots]
                batches = generate_batches(
                    model, texts, each.shots[0].seed, sampling, wanted=each.wanted
                )
                for chosen, images in batches:
                    made = [
                        (folder, shot, image, facts)
                        for shot, image in zip(each.shots[chosen], images.cpu(), strict=True)
                        if shot.number in each.numbers
                    ]
                    write(made)
                    yield len(made)
    except (ValueError, TypeError) as error:
        raise EvaluateError(f"the model `{label}` stopped: {error_text(error)}") from error
