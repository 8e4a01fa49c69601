"""GenEval as a metric: whether a picture shows what its prompt asks for."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial

import attrs
import torch
from torch import Tensor

from flowbp.evaluation import HeldOut, Scale
from flowbp.evaluation.validators import not_empty
from flowbp.geneval.criteria import failures
from flowbp.geneval.preparation import eight_bits
from flowbp.geneval.scene import Detection, Detector, select, threshold
from flowbp.geneval.task import Task
from flowbp.geneval.vocabulary import TASKS

LABEL = "GenEval"
"""What the metric is called, where nothing else is said."""

# In every column's name, lest its figures be taken for those of GenEval's own detector, whose
# weights are others.
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

    Args:
        tasks: What the prompts ask for; other prompts get NaN.
        detector: Finds objects.
        colour_in: Tells their colours.
        label: With which the columns' names begin.

    Raises:
        ValueError: `label` is empty.

    Example:
        >>> from flowbp.evaluation import HeldOutPrompt
        >>> from flowbp.geneval.task import Wanted
        >>> task = Task("a photo of a dog", "single_object", [Wanted("dog", 1)])
        >>> def detector(images):
        ...     return tuple((Detection("dog", 0.9, (0, 0, 1, 1)),) for _ in images)
        >>> metric = TaskMetric([task], detector, lambda image, detection: "red")
        >>> columns = metric(torch.rand(2, 3, 8, 8), [task, HeldOutPrompt("a circle")])
        >>> columns["GenEval.all (HF detector)"]
        tensor([1., nan])

    Source: Ghosh et al., "GenEval: An Object-Focused Framework for Evaluating Text-to-Image
    Alignment", arXiv 2310.11513.
    """

    tasks: Mapping[str, Task] = attrs.field(converter=_by_text, repr=False)
    detector: Detector
    colour_in: ColourIn
    label: str = attrs.field(default=LABEL, validator=not_empty)

    @property
    def totals(self) -> Mapping[str, tuple[str, ...]]:
        """GenEval's total, by its name: the columns of the six tasks, whose means are averaged.

        `Scores` does so; where a task has no pictures there is none, as a total of fewer tasks is
        another figure.
        """
        return {column_name(self.label, _TOTAL): self._names()[1:]}

    @property
    def scales(self) -> Mapping[str, Scale]:
        """All columns hold verdicts."""
        return dict.fromkeys(self._names(), Scale(verdict=True))

    @torch.no_grad()
    def __call__(self, images: Tensor, prompts: Sequence[HeldOut]) -> Mapping[str, Tensor]:
        """Judge pictures.

        Args:
            images: (B, 3, H, W) in [0, 1], any size.
            prompts: B prompts.

        Returns:
            (B,) of 1, 0 and NaN by column, see `column_name`.

        Raises:
            ValueError: Another number of prompts.
        """
        if len(images) != len(prompts):
            raise ValueError(
                f"`prompts` must be as many as the {len(images)} images, got {len(prompts)}"
            )
        tasks = [self.tasks.get(prompt.text) for prompt in prompts]
        known = [number for number, task in enumerate(tasks) if task is not None]
        columns = {name: torch.full((len(tasks),), math.nan) for name in self._names()}
        if not known:
            return columns
        pictures = eight_bits(images[known])
        for number, picture, found in zip(known, pictures, self.detector(pictures), strict=True):
            task = tasks[number]
            assert task is not None
            passed = float(not self._failures(task, picture, found))
            columns[column_name(self.label)][number] = passed
            columns[column_name(self.label, task.kind)][number] = passed
        return columns

    def _names(self) -> tuple[str, ...]:
        return tuple(column_name(self.label, kind) for kind in (None, *TASKS))

    def _failures(self, task: Task, picture: Tensor, found: Sequence[Detection]) -> tuple[str, ...]:
        scene = select(found, above=threshold(task.kind))
        return failures(task, scene, colour_of=partial(self.colour_in, picture))


def column_name(label: str = LABEL, kind: str | None = None) -> str:
    """A column of the metric.

    Args:
        label: of the metric.
        kind: one of `TASKS`, or ``overall`` for their total; None for all prompts.

    Returns:
        Its name.

    Example:
        >>> column_name(), column_name("mine", "counting")
        ('GenEval.all (HF detector)', 'mine.counting (HF detector)')
    """
    return f"{label}.{kind or 'all'} ({_DETECTOR})"
