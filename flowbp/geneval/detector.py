"""Mask2Former of transformers as GenEval's detector."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import attrs
import torch
from torch import Tensor

from flowbp.adapters.extras import require
from flowbp.adapters.policy import CPU, FLOAT32
from flowbp.adapters.source import local_folder, read_json
from flowbp.adapters.weights import check_loading_report, check_weight_files
from flowbp.core._validators import integer
from flowbp.geneval.instances import Sizes, instances
from flowbp.geneval.preparation import prepare, shown_size
from flowbp.geneval.scene import Detection
from flowbp.geneval.vocabulary import CLASSES
from flowbp.limits import BATCH
from flowbp.rewards.clip_tokenizer import reading
from flowbp.rewards.needs import Need, Reading, package
from flowbp.rewards.places import located
from flowbp.rewards.sources import check_model
from flowbp.rewards.towers import TOWERS, Towers

if TYPE_CHECKING:
    from transformers import Mask2FormerForUniversalSegmentation

HUB_ID = "facebook/mask2former-swin-small-coco-instance"
"""The detector on the hub: the architecture of GenEval's own, with other weights."""


@attrs.frozen(kw_only=True, eq=False)
class Mask2Former:
    """Objects of COCO's 80 classes by a Mask2Former, in float32.

    Classes go by their number, because models call some of them by other names.

    Construction loads the model.

    Args:
        source: A folder or hub id in the layout of transformers.
        batch: Pictures in the model at a time.
        device: Where it runs.
        towers: With whom it is shared.

    Raises:
        ModuleNotFoundError: transformers or scipy is not installed.
        FileNotFoundError: The hub cannot be reached, or a folder lacks files.
        ValueError: No such path, a model of another type or of other classes, or weights that do
            not fit.

    Example:
        ``Mask2Former(device="cuda")(images)``

    Source: Cheng et al., "Masked-attention Mask Transformer", arXiv 2112.01527.
    """

    source: str | os.PathLike[str] = attrs.field(
        default=HUB_ID, validator=located(folder="a Mask2Former in the layout of transformers")
    )
    batch: int = attrs.field(default=4, validator=integer(1, BATCH))
    device: torch.device = attrs.field(default=CPU, converter=torch.device)
    towers: Towers = attrs.field(default=TOWERS, repr=False)
    model: Mask2FormerForUniversalSegmentation = attrs.field(init=False, repr=False)

    @model.default
    def _load(self) -> Mask2FormerForUniversalSegmentation:
        # Now, because validators run last and loading comes before that.
        attrs.validate(self)
        return self.towers.get(
            self.source,
            dtype=FLOAT32.weights,
            device=self.device,
            load=lambda: load_mask2former(self.source),
        )

    @torch.no_grad()
    def __call__(self, images: Tensor) -> tuple[tuple[Detection, ...], ...]:
        """Find objects.

        Args:
            images: (B, 3, H, W) in [0, 1], any size.

        Returns:
            The objects of each picture with a score above 0.3, surest first.

        Raises:
            ValueError: Images of another shape.
        """
        if images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(f"`images` must be (B, 3, H, W), got {tuple(images.shape)}")
        parts = torch.split(images, self.batch) if len(images) else ()
        return tuple(found for part in parts for found in self._find(part))

    def _find(self, images: Tensor) -> tuple[tuple[Detection, ...], ...]:
        with FLOAT32.autocast(self.device):
            pixels = prepare(images.to(device=self.device, dtype=FLOAT32.state))
            output = self.model(pixel_values=pixels)
        height, width = images.shape[-2:]
        rows, columns = pixels.shape[-2:]
        sizes = Sizes((rows, columns), shown_size(height, width), (height, width))
        return tuple(
            instances(classes, masks, sizes)
            for classes, masks in zip(
                output.class_queries_logits, output.masks_queries_logits, strict=True
            )
        )


def detector_needs(source: str | os.PathLike[str] = HUB_ID) -> tuple[Need, ...]:
    """What loading a Mask2Former reads.

    Args:
        source: A folder or hub id in the layout of transformers.

    Returns:
        The packages and the model.

    Example:
        >>> [need.tower for need in detector_needs()][-1] == HUB_ID
        True
    """
    check = partial(check_model, source, argument="source", check=_check_folder)
    return (
        package("transformers"),
        package("scipy", extra="geneval"),
        Need(check=check, tower=source, reading=Reading(source)),
    )


def load_mask2former(source: str | os.PathLike[str]) -> Mask2FormerForUniversalSegmentation:
    """Load a Mask2Former of COCO's classes.

    Args:
        source: A folder or hub id in the layout of transformers.

    Returns:
        The model, on the CPU.

    Raises:
        ModuleNotFoundError: transformers or scipy is not installed.
        FileNotFoundError: No such source, or a folder without a model.
        ValueError: A model of another type or of other classes, or weights that do not fit.

    Example:
        ``load_mask2former("facebook/mask2former-swin-small-coco-instance")``
    """
    # transformers' class asks for it, and names no extra of ours.
    require("scipy", extra="geneval")
    kind = require("transformers").Mask2FormerForUniversalSegmentation
    folder = local_folder(source)
    if folder is not None:
        _check_folder(folder)
    with reading("source", source):
        model, report = kind.from_pretrained(
            folder or str(source),
            dtype=FLOAT32.weights,
            output_loading_info=True,
            ignore_mismatched_sizes=True,
        )
    # Weights of the training loss, which is not run.
    lacking = [key for key in report["missing_keys"] if not key.startswith("criterion.")]
    report = {**report, "missing_keys": lacking}
    check_loading_report(report, source=source, model="Mask2Former")
    if model.config.num_labels != len(CLASSES):
        raise ValueError(
            f"`source` {str(source)!r} must tell COCO's {len(CLASSES)} classes apart, got "
            f"{model.config.num_labels}; take {HUB_ID}"
        )
    found: Mask2FormerForUniversalSegmentation = model
    return found


def _check_folder(folder: Path) -> None:
    config = read_json(folder / "config.json", what="a Mask2Former in transformers' layout")
    if config.get("model_type") != "mask2former":
        raise ValueError(
            f"`source` must hold a Mask2Former, got model_type {config.get('model_type')!r} "
            f"in {str(folder)!r}; take {HUB_ID}"
        )
    check_weight_files(folder)
