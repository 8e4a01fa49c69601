"""All pictures of an evaluation, read when they are asked for."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from typing import Any

import attrs
import torch
from torch import Tensor

from flowbp.evaluate.ahead import READERS, ReadAhead
from flowbp.evaluate.container import EvaluationContainer, all_shots
from flowbp.evaluate.figures import Kept
from flowbp.evaluate.pictures import Shot
from flowbp.evaluation import PictureSet, read_png


@attrs.frozen(eq=False)
class Pictures:
    """The pictures of an evaluation, which are all there.

    Args:
        container: of the evaluation.

    Example:
        >>> from flowbp.evaluate.loading import load
        >>> typed = ["evaluation={folder: evaluations/new, batch: 2}", "backbone.name=shapes",
        ...          "prompts={name: shapes, count: 3}",
        ...          "sampling={steps: 4, height: 64, width: 64}"]
        >>> pictures = Pictures(EvaluationContainer(settings=load(typed).settings))
        >>> pictures.models, [len(batch) for batch in pictures.batches("base")]
        (('base',), [2, 1])
    """

    container: EvaluationContainer
    _keys: dict[Shot, str] = attrs.field(factory=dict, init=False, repr=False)
    _sets: dict[str, PictureSet] = attrs.field(factory=dict, init=False, repr=False)
    _files: dict[str, ReadAhead[Tensor]] = attrs.field(factory=dict, init=False, repr=False)
    _places: dict[str, Mapping[Shot, int]] = attrs.field(factory=dict, init=False, repr=False)
    _pool: ThreadPoolExecutor = attrs.field(
        factory=lambda: ThreadPoolExecutor(READERS), init=False, repr=False
    )

    @property
    def models(self) -> tuple[str, ...]:
        """The labels of the models, the base first."""
        return tuple(self.container.settings().models)

    def shots(self, model: str | None = None) -> tuple[Shot, ...]:
        """Those of a model, or of all: by models, seeds and prompts."""
        labels = self.models if model is None else (model,)
        seeds = chain(*(all_shots(self.container, label) for label in labels))
        return tuple(chain(*seeds))

    def batches(self, model: str) -> Iterator[tuple[Shot, ...]]:
        """Those of a model as they are judged together; all of one seed."""
        batch = self.container.settings().evaluation.batch
        for shots in all_shots(self.container, model):
            for start in range(0, len(shots), batch):
                yield tuple(shots[start : start + batch])

    def key(self, shot: Shot) -> str:
        """What a picture is known by; its file is read once."""
        if shot not in self._keys:
            self._keys[shot] = Kept.key(shot, shot.path(self._folder).read_bytes())
        return self._keys[shot]

    def digest(self, model: str) -> str:
        """What all pictures of a model and of the base are known by together."""
        keys = map(self.key, (*self.shots(model), *self.shots(self.models[0])))
        return hashlib.sha256("\n".join(keys).encode()).hexdigest()[:16]

    def images(self, shots: Sequence[Shot]) -> Tensor:
        """Pictures (B, 3, H, W) of a model in [0, 1], on the evaluation's device.

        Those that follow them in the model's order are begun to be read.
        """
        (model,) = {shot.model for shot in shots}
        files, places = self._files_of(model), self._places_of(model)
        return self._on_device(torch.stack([files[places[shot]] for shot in shots]))

    def set_of(self, model: str) -> PictureSet:
        """All of a model; the same object each time, by which what is known of it is found."""
        if model not in self._sets:
            shots = self.shots(model)
            self._sets[model] = PictureSet(
                label=model,
                prompts=[shot.prompt for shot in shots],
                numbers=[shot.number for shot in shots],
                seeds=[shot.seed for shot in shots],
                pictures=_OnDevice(self._files_of(model), self._on_device),
            )
        return self._sets[model]

    @property
    def _folder(self) -> Path:
        folder: Path = self.container.settings().evaluation.folder
        return folder

    def _files_of(self, model: str) -> ReadAhead[Tensor]:
        if model not in self._files:
            shots, folder = self.shots(model), self._folder
            window = self.container.settings().evaluation.batch + READERS
            self._files[model] = ReadAhead(
                len(shots),
                lambda number: read_png(shots[number].path(folder).read_bytes())[0],
                self._pool,
                window,
            )
        return self._files[model]

    def _places_of(self, model: str) -> Mapping[Shot, int]:
        if model not in self._places:
            self._places[model] = {shot: place for place, shot in enumerate(self.shots(model))}
        return self._places[model]

    def _on_device(self, images: Tensor) -> Tensor:
        return images.to(self.container.device())


@attrs.frozen
class _OnDevice(Sequence[Tensor]):
    files: Sequence[Tensor]
    place: Callable[[Tensor], Tensor]

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, number: Any) -> Any:
        return self.place(self.files[number])
