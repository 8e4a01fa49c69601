"""GenEval as a metric."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import attrs
import torch
from torch import Tensor
from torch.nn import functional as F

from flowbp.adapters.dtype_policy import CPU
from flowbp.evaluation import HeldOut, Scale
from flowbp.evaluation.metrics.geneval.criteria import (
    Detection,
    Detector,
    failures,
    select,
    threshold,
)
from flowbp.evaluation.metrics.geneval.detector import (
    HUB_ID,
    Mask2Former,
    detector_needs,
    eight_bits,
)
from flowbp.evaluation.metrics.geneval.task import COLOURS, TASKS, Task, read_tasks
from flowbp.limits import BATCH
from flowbp.place import located
from flowbp.rewards.clip import ClipReward, repaired
from flowbp.rewards.clip_model import VIT_L_14, clip_needs
from flowbp.rewards.needs import Need, package
from flowbp.rewards.pixels import crop_shortest_side_torchvision
from flowbp.rewards.towers import TOWERS, Towers
from flowbp.validators import integer, not_empty

LABEL = "GenEval"

# In every column's name, so that its numbers are not taken for those of GenEval's own detector,
# which has other weights.
_DETECTOR = "HF detector"
_TOTAL = "overall"

ColourIn = Callable[[Tensor, Detection], str]
"""The colour of an object in a picture (3, H, W)."""


def _by_text(tasks: Iterable[Task]) -> Mapping[str, Task]:
    return {task.text: task for task in tasks}


@attrs.frozen(eq=False)
class TaskMetric:
    """Whether pictures show the objects, numbers, colours and places that their prompts ask for.

    Its columns are ``label.all (HF detector)``, 1 or 0 for every picture of a prompt of GenEval,
    and one for each of the six tasks, so that the mean of a column is an accuracy. GenEval's own
    total is the mean of the six, see `totals`; the mean of the first column weighs the tasks by
    their prompts.

    Pictures are rounded to 256 levels first, as their files are.

    Source: Ghosh et al., "GenEval: An Object-Focused Framework for Evaluating Text-to-Image
    Alignment", arXiv 2310.11513.
    """

    tasks: Mapping[str, Task] = attrs.field(converter=_by_text, repr=False)
    detector: Detector
    colour_in: ColourIn
    label: str = attrs.field(default=LABEL, validator=not_empty)

    @property
    def totals(self) -> Mapping[str, tuple[str, ...]]:
        """GenEval's total, by its name: the columns of the six tasks, whose means are averaged."""
        return {column_name(self.label, _TOTAL): self._names()[1:]}

    @property
    def scales(self) -> Mapping[str, Scale]:
        """All columns hold verdicts."""
        return dict.fromkeys(self._names(), Scale(verdict=True))

    @torch.no_grad()
    def __call__(self, images: Tensor, prompts: Sequence[HeldOut]) -> Mapping[str, Tensor]:
        """Judge pictures."""
        if len(images) != len(prompts):
            raise ValueError(
                f"`prompts` must be as many as the {len(images)} images, got {len(prompts)}"
            )
        known = [number for number, prompt in enumerate(prompts) if prompt.text in self.tasks]
        columns = {name: torch.full((len(prompts),), math.nan) for name in self._names()}
        if not known:
            return columns
        pictures = eight_bits(images[known])
        for number, picture, found in zip(known, pictures, self.detector(pictures), strict=True):
            task = self.tasks[prompts[number].text]
            scene = select(found, above=threshold(task.kind))
            failed = failures(task, scene, colour_of=partial(self.colour_in, picture))
            for kind in (None, task.kind):
                columns[column_name(self.label, kind)][number] = float(not failed)
        return columns

    def _names(self) -> tuple[str, ...]:
        return tuple(column_name(self.label, kind) for kind in (None, *TASKS))


def column_name(label: str = LABEL, kind: str | None = None) -> str:
    """A column of the metric."""
    return f"{label}.{kind or 'all'} ({_DETECTOR})"


GROUND = 0x99 / 255
"""The grey around a masked object."""

_TEMPLATES = (
    "a photo of a {colour} {name}",
    "a photo of a {colour}-colored {name}",
    "a photo of a {colour} object",
)


def cut_out(image: Tensor, detection: Detection) -> Tensor:
    """An object on grey, cut to its box."""
    left, top, right, bottom = (round(edge) for edge in detection.box)
    if detection.mask is not None:
        image = torch.where(detection.mask.to(image.device), image, GROUND)
    return image[:, top:bottom, left:right]


@attrs.frozen(eq=False)
class Colours:
    """Which of 10 colours an object is of: the nearest by CLIP.

    ``argmax over c of f(object) . g(c)`` with the object on grey, cut to its box, and ``g(c)`` the
    mean of the unit embeddings of three descriptions.

    Source: Ghosh et al., arXiv 2310.11513, section 3.
    """

    clip: ClipReward
    _known: dict[str, Tensor] = attrs.field(factory=dict, init=False, repr=False)

    @torch.no_grad()
    def __call__(self, image: Tensor, detection: Detection) -> str:
        """Name the colour."""
        seen = self.clip.embed_images(cut_out(image, detection)[None])
        with torch.autocast(self.clip.device.type, enabled=False):
            return COLOURS[int((self._described(detection.name) @ seen[0]).argmax())]

    def _described(self, name: str) -> Tensor:
        if name not in self._known:
            texts = [t.format(colour=c, name=name) for c in COLOURS for t in _TEMPLATES]
            unit = self.clip.embed_prompts(texts)
            means = unit.reshape(len(COLOURS), len(_TEMPLATES), -1).mean(1)
            self._known[name] = F.normalize(means, dim=-1)
        return self._known[name]


def _of_geneval(_: Any, __: attrs.Attribute[Path], value: Path) -> None:
    read_tasks(value)


@attrs.frozen(kw_only=True, eq=False)
class GenEval:
    """GenEval on a Mask2Former of transformers: whether pictures show what their prompts ask for.

    The criteria, thresholds and colour classifier are GenEval's; the detector has its architecture
    and other weights, so its numbers are not comparable with published tables: every column says
    "HF detector". See `TaskMetric` for the columns. GenEval takes four pictures of each prompt.

    Construction loads both models.

    Args:
        metadata: The path of GenEval's ``evaluation_metadata.jsonl``, which is not shipped.
        source: The detector: a folder or hub id in the layout of transformers.
        clip: The colour classifier: a folder or hub id in CLIPModel layout.
        batch: Pictures in the detector at a time.
        label: With which the columns' names begin.
        device: Where both run.
        towers: With whom they are shared.

    Raises:
        ModuleNotFoundError: transformers, ftfy or scipy is not installed.
        FileNotFoundError: The hub cannot be reached, or a folder lacks files.
        ValueError: `metadata` is not GenEval's, with its faulty lines; no such path, or a model of
            another kind.

    Example:
        ``GenEval(metadata="evaluation_metadata.jsonl", device="cuda")(images, prompts)``

    Source: Ghosh et al., "GenEval: An Object-Focused Framework for Evaluating Text-to-Image
    Alignment", arXiv 2310.11513; github.com/djghosh13/geneval (MIT).
    """

    metadata: Path = attrs.field(converter=Path, validator=_of_geneval)
    source: str | os.PathLike[str] = attrs.field(
        default=HUB_ID, validator=located(folder="a Mask2Former in the layout of transformers")
    )
    clip: str | os.PathLike[str] = attrs.field(
        default=VIT_L_14, validator=located(folder="CLIPModel layout")
    )
    batch: int = attrs.field(default=4, validator=integer(1, BATCH))
    label: str = attrs.field(default=LABEL, validator=not_empty)
    device: torch.device = attrs.field(default=CPU, converter=torch.device)
    towers: Towers = attrs.field(default=TOWERS, repr=False)
    metric: TaskMetric = attrs.field(init=False, repr=False)

    @staticmethod
    def needs(source: str | os.PathLike[str], clip: str | os.PathLike[str]) -> tuple[Need, ...]:
        """What its construction reads; see `flowbp.rewards.Need`."""
        return (
            package("ftfy", extra="rewards"),
            *detector_needs(source),
            *clip_needs(clip, tokenizer=clip, argument="clip"),
        )

    @staticmethod
    def why_unsuitable(metadata: str | os.PathLike[str], prompts: Sequence[HeldOut]) -> str:
        """What is wrong with prompts of which it could judge none; empty if nothing is."""
        known = {task.text for task in read_tasks(Path(metadata))}
        if any(prompt.text in known for prompt in prompts):
            return ""
        return (
            f"judges prompts of {metadata}, and of the {len(prompts)} here none is in it; take "
            f"prompts={{name: geneval, metadata: {metadata}}}"
        )

    @metric.default
    def _load(self) -> TaskMetric:
        # Now, because validators run last and loading comes before that.
        attrs.validate(self)
        detector = Mask2Former(
            source=self.source, batch=self.batch, device=self.device, towers=self.towers
        )
        clip = ClipReward.from_pretrained(
            self.clip,
            resize=crop_shortest_side_torchvision,
            clean=repaired,
            device=self.device,
            towers=self.towers,
        )
        return TaskMetric(read_tasks(self.metadata), detector, Colours(clip), self.label)

    @property
    def totals(self) -> Mapping[str, tuple[str, ...]]:
        """GenEval's total, by its name: the columns of the six tasks, whose means are averaged."""
        return self.metric.totals

    @property
    def scales(self) -> Mapping[str, Scale]:
        """All columns hold verdicts."""
        return self.metric.scales

    def __call__(self, images: Tensor, prompts: Sequence[HeldOut]) -> Mapping[str, Tensor]:
        """Judge pictures (B, 3, H, W) in [0, 1]; (B,) of 1, 0 and NaN by column."""
        return self.metric(images, prompts)
