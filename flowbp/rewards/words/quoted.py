"""The text that a prompt quotes, and what rewards by it have in common."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import attrs
import torch
from torch import Tensor

from flowbp.rewards.reward import check_inputs, score_in_batches
from flowbp.rewards.towers import ModelReward
from flowbp.rewards.words.region import InRegions
from flowbp.validators import real

# A straight quote after a letter or number is an inch mark, or ends something.
_QUOTED = re.compile(r'(?<!\w)"([^"]+)"|“([^“”]+)”|„([^„“”]+)[“”]|«([^«»]+)»')

_CURE = 'write them like: a sign that says "OPEN", or give `unquoted`, the score of prompts without'


def quoted_text(prompt: str) -> str:
    """The text that a prompt puts in double quotes; empty where it quotes nothing.

    Quotes are straight, curly or angular. Several quotes are read one after the other, with a
    space between. Single quotes are apostrophes, and quote nothing.

    Example:
        >>> quoted_text('a sign that says "OPEN", and “24 hours” below')
        'OPEN 24 hours'
        >>> quoted_text("a shop's sign"), quoted_text('a 10" pizza beside a 12" one')
        ('', '')
    """
    texts = (next(filter(None, groups)) for groups in _QUOTED.findall(prompt))
    return " ".join(" ".join(texts).split())


@attrs.frozen(kw_only=True, eq=False)
class QuotedTextReward(InRegions, ModelReward):
    """A picture's score is `log p(text | picture) / characters`, at most 0.

    `text` is what the prompt quotes, and p its probability under a recogniser that reads one line
    in a region of the picture. 0 is certainty, and -0.1 a probability of 0.9 for each character.

    A subclass reads: `_log_likelihoods(crops, texts)` are the (B,) log p of B texts in what was cut
    out of as many pictures, (B, 3, h, w), and `_fault(text)` is why it never reads a text.

    Args:
        unquoted: The score, without gradient, of a prompt that quotes nothing; None refuses it.
    """

    unquoted: float | None = attrs.field(
        default=None, validator=attrs.validators.optional(real(float("-inf")))
    )

    @staticmethod
    def why_unsuitable(prompts: Sequence[Any], unquoted: float | None) -> str:
        """Whether some prompts quote nothing, though each must; empty if not."""
        silent = [prompt.text for prompt in prompts if not quoted_text(prompt.text)]
        if not silent or unquoted is not None:
            return ""
        return (
            f"reads what prompts put in double quotes, and {len(silent)} of {len(prompts)} prompts "
            f"quote nothing, the first being {silent[0]!r}; {_CURE}"
        )

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Score B pictures (B, 3, H, W) in [0, 1] against B prompts: (B,), differentiable."""
        check_inputs(images, prompts)
        texts = [self._wanted(prompt) for prompt in prompts]
        scores, order = [], []
        quoting = [row for row, text in enumerate(texts) if text]
        for rows, crops in self.crops(images, prompts, quoting):
            chosen = [texts[row] for row in rows]
            scores.append(score_in_batches(self._scores, crops, chosen, batch=self.batch))
            order += rows
        silent = [row for row, text in enumerate(texts) if not text]
        if silent:
            # Still a function of the pictures, as every score is.
            nothing = 0 * images[silent].flatten(1).sum(1).to(self.device, self.policy.state)
            scores.append(nothing + (self.unquoted or 0.0))
            order += silent
        places = torch.tensor(order, device=self.device).argsort()
        return torch.cat(scores)[places]

    def _scores(self, crops: Tensor, texts: Sequence[str]) -> Tensor:
        with torch.autocast(self.device.type, enabled=False):
            pixels = crops.to(device=self.device, dtype=self.policy.state)
        characters = torch.tensor([len(text) for text in texts], device=self.device)
        return self._log_likelihoods(pixels, texts) / characters

    def _log_likelihoods(self, crops: Tensor, texts: Sequence[str]) -> Tensor:
        raise NotImplementedError

    def _fault(self, text: str) -> str:
        raise NotImplementedError

    def _wanted(self, prompt: str) -> str:
        """What a prompt quotes; refused if it is nothing, or nothing that can be read."""
        text = quoted_text(prompt)
        if not text and self.unquoted is None:
            raise ValueError(
                f"`prompts` must put the words that are to be read in double quotes, got "
                f"{prompt!r}; {_CURE}"
            )
        fault = self._fault(text) if text else ""
        if fault:
            raise ValueError(f"`prompts` must quote what can be read, got {prompt!r}: {fault}")
        return text
