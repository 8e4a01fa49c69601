"""The pictures of an evaluation: their files, read ahead and written behind."""

from __future__ import annotations

import hashlib
import operator
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from types import MappingProxyType
from typing import Any, Generic, TypeVar

import attrs
import torch
from torch import Tensor

from flowbp.cli.evaluate.settings import EvaluateSettings
from flowbp.evaluation import HeldOut, PictureSet, labelled_png, read_png
from flowbp.evaluation.metric_runner import OnDevice
from flowbp.files import write_atomically

IMAGES = "images"

ORIGIN = "origin"
"""The fact that says what evaluation a picture is of."""


class ForeignPictureError(ValueError):
    """A picture in the folder is of another evaluation."""


@attrs.frozen
class Shot:
    """One picture that an evaluation makes."""

    model: str
    number: int
    seed: int
    # Not compared: a prompt of a source of one's own need not be hashable.
    prompt: HeldOut = attrs.field(eq=False)

    def path(self, folder: Path) -> Path:
        """Its file in the folder of an evaluation."""
        return picture_path(folder, self.model, self.number, self.seed)

    def key(self, content: bytes) -> str:
        """What it is known by: its place, its seed and the bytes of its file."""
        return f"{self.number}-{self.seed}-{hashlib.sha256(content).hexdigest()[:16]}"

    @property
    def texts(self) -> dict[str, str]:
        """What the file says of it."""
        return {
            "prompt": self.prompt.text,
            "kind": self.prompt.kind,
            "number": str(self.number),
            "seed": str(self.seed),
            "model": self.model,
        }


def picture_path(folder: Path, model: str, number: int, seed: int) -> Path:
    """The file of a picture in the folder of an evaluation."""
    return folder / IMAGES / model / f"{number:05}-{seed}.png"


def shots_by_seed(
    label: str, prompts: Sequence[HeldOut], seeds: Sequence[int]
) -> Iterator[list[Shot]]:
    """The pictures of one model, seed by seed, each in the order of the prompts."""
    for seed in seeds:
        yield [Shot(label, i, seed, prompt) for i, prompt in enumerate(prompts)]


def write_picture(
    folder: Path, shot: Shot, image: Tensor, facts: Mapping[str, str] = MappingProxyType({})
) -> None:
    """Write a picture, whole or not at all."""
    write_atomically(shot.path(folder), labelled_png(image, {**facts, **shot.texts}))


def read_picture(folder: Path, shot: Shot, origin: str | None = None) -> Tensor | None:
    """Read a picture if it is there and whole."""
    path = shot.path(folder)
    if not path.is_file():
        return None
    try:
        image, texts = read_png(path.read_bytes())
    except ValueError:
        # Made again from the same noise, which is all that can be asked of a damaged file.
        return None
    wanted_texts = shot.texts | ({} if origin is None else {ORIGIN: origin})
    for key, wanted in wanted_texts.items():
        if texts.get(key) != wanted:
            raise ForeignPictureError(
                f"{path} has the {key} {texts.get(key)!r} and not {wanted!r}: it is of another "
                "evaluation; name another evaluation.folder"
            )
    return image


# Pillow decodes one picture at a time, however many threads there are; what is gained is that it
# does so while the device is at work.
READERS = 2
# Encoding does not hold up Python, and is a core's work for each picture.
_WRITERS = min(8, os.cpu_count() or 1)

T = TypeVar("T")


@attrs.frozen(eq=False)
class ReadAhead(Sequence[T], Generic[T]):
    """A sequence that is computed item by item; those after the last one asked for are begun."""

    length: int
    read: Callable[[int], T]
    pool: ThreadPoolExecutor
    window: int
    _begun: dict[int, Future[T]] = attrs.field(factory=dict, init=False, repr=False)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, number: Any) -> Any:
        """An item, or the items of a slice; whatever computing them raises is raised here."""
        if isinstance(number, slice):
            return [self[each] for each in range(*number.indices(self.length))]
        place = operator.index(number)
        if not -self.length <= place < self.length:
            raise IndexError(
                f"`number` must be in [{-self.length}, {self.length - 1}], got {number}"
            )
        return self._item(place % self.length)

    def _item(self, number: int) -> T:
        wanted = range(number, min(number + self.window + 1, self.length))
        for other in [each for each in self._begun if each not in wanted]:
            self._begun.pop(other).cancel()
        for each in wanted:
            if each not in self._begun:
                self._begun[each] = self.pool.submit(self.read, each)
        return self._begun.pop(number).result()


@contextmanager
def written_behind(
    write: Callable[..., object],
) -> Iterator[Callable[[Iterable[tuple[Any, ...]]], None]]:
    """Write files in threads while the next are made; after the block all are there."""
    pending: list[Future[object]] = []

    def begin(files: Iterable[tuple[Any, ...]]) -> None:
        while pending:
            pending.pop(0).result()
        pending.extend(pool.submit(write, *each) for each in files)

    with ThreadPoolExecutor(_WRITERS) as pool:
        yield begin
        begin([])


@attrs.frozen(eq=False)
class Pictures:
    """The pictures of an evaluation, which are all there."""

    settings: EvaluateSettings
    prompts: Sequence[HeldOut]
    device: torch.device
    _keys: dict[Shot, str] = attrs.field(factory=dict, init=False, repr=False)
    _sets: dict[str, PictureSet] = attrs.field(factory=dict, init=False, repr=False)
    _files: dict[str, ReadAhead[Tensor]] = attrs.field(factory=dict, init=False, repr=False)
    _pool: ThreadPoolExecutor = attrs.field(
        factory=lambda: ThreadPoolExecutor(READERS), init=False, repr=False
    )

    @property
    def models(self) -> tuple[str, ...]:
        """The labels of the models, the base first."""
        return tuple(self.settings.models)

    def shots(self, model: str | None = None) -> tuple[Shot, ...]:
        """Those of a model, or of all: by models, seeds and prompts."""
        labels = self.models if model is None else (model,)
        return tuple(chain(*chain(*map(self._by_seed, labels))))

    def batches(self, model: str) -> Iterator[tuple[Shot, ...]]:
        """Those of a model as they are judged together; all of one seed."""
        batch = self.settings.evaluation.batch
        for shots in self._by_seed(model):
            for start in range(0, len(shots), batch):
                yield tuple(shots[start : start + batch])

    def key(self, shot: Shot) -> str:
        """What a picture is known by; its file is read once."""
        if shot not in self._keys:
            self._keys[shot] = shot.key(shot.path(self._folder).read_bytes())
        return self._keys[shot]

    def digest(self, model: str) -> str:
        """What all pictures of a model and of the base are known by together."""
        keys = map(self.key, (*self.shots(model), *self.shots(self.models[0])))
        return hashlib.sha256("\n".join(keys).encode()).hexdigest()[:16]

    def images(self, shots: Sequence[Shot]) -> Tensor:
        """Pictures (B, 3, H, W) of a model in [0, 1], on the evaluation's device."""
        seeds, files = self.settings.evaluation.seeds, self._files_of(shots[0].model)
        places = (seeds.index(shot.seed) * len(self.prompts) + shot.number for shot in shots)
        return torch.stack([files[place] for place in places]).to(self.device)

    def set_of(self, model: str) -> PictureSet:
        """All of a model; the same object each time, by which what is known of it is found."""
        if model not in self._sets:
            shots = self.shots(model)
            self._sets[model] = PictureSet(
                label=model,
                prompts=[shot.prompt for shot in shots],
                numbers=[shot.number for shot in shots],
                seeds=[shot.seed for shot in shots],
                pictures=OnDevice(self._files_of(model), self.device),
            )
        return self._sets[model]

    @property
    def _folder(self) -> Path:
        return self.settings.evaluation.folder

    def _by_seed(self, model: str) -> Iterator[list[Shot]]:
        return shots_by_seed(model, self.prompts, self.settings.evaluation.seeds)

    def _files_of(self, model: str) -> ReadAhead[Tensor]:
        if model not in self._files:
            shots, folder = self.shots(model), self._folder
            self._files[model] = ReadAhead(
                len(shots),
                lambda number: read_png(shots[number].path(folder).read_bytes())[0],
                self._pool,
                self.settings.evaluation.batch + READERS,
            )
        return self._files[model]
