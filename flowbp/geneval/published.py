"""GenEval with the models that it takes, from their published files."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs
import torch
from torch import Tensor

from flowbp.adapters.policy import CPU
from flowbp.core._validators import integer
from flowbp.evaluation import HeldOut, Scale
from flowbp.evaluation.validators import not_empty
from flowbp.geneval.colours import Colours
from flowbp.geneval.detector import HUB_ID, Mask2Former, detector_needs
from flowbp.geneval.metadata import read_tasks
from flowbp.geneval.metric import LABEL, TaskMetric
from flowbp.limits import BATCH
from flowbp.rewards.cleaning import repaired
from flowbp.rewards.clip import ClipReward
from flowbp.rewards.clip_source import clip_needs
from flowbp.rewards.clipscore import VIT_L_14
from flowbp.rewards.needs import Need, package
from flowbp.rewards.pixels import crop_shortest_side_torchvision
from flowbp.rewards.places import located
from flowbp.rewards.towers import TOWERS, Towers


def _of_geneval(_: Any, __: attrs.Attribute[Path], value: Path) -> None:
    read_tasks(value)


@attrs.frozen(kw_only=True, eq=False)
class GenEval:
    """GenEval on a Mask2Former of transformers: whether pictures show what their prompts ask for.

    The criteria, thresholds and colour classifier are GenEval's; the detector has its architecture
    and other weights, so figures are not those of published tables: every column says "HF
    detector". See `TaskMetric` for the columns. GenEval takes four pictures of each prompt.

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
    def unfit(metadata: str | os.PathLike[str], prompts: Sequence[HeldOut]) -> str:
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
