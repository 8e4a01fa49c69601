"""PickScore v1: preferences of the users of Pick-a-Pic."""

from __future__ import annotations

import attrs

from flowbp.place import Place, located
from flowbp.rewards.clip import ClipReward, PublishedClipReward
from flowbp.rewards.clip_model import clip_needs
from flowbp.rewards.needs import Need, package
from flowbp.rewards.pretrained import tokenizer_place

_PUBLISHED = "yuvalkirstain/PickScore_v1"
_TRAINED_WITH = "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"


def _tokenizer(source: Place, tokenizer: Place | None) -> Place:
    return tokenizer_place(tokenizer, source, own=source != _PUBLISHED, published=_TRAINED_WITH)


@attrs.frozen(kw_only=True, eq=False)
class PickScore(PublishedClipReward):
    """Cosine of picture and prompt under PickScore's CLIP, times its logit scale.

    ``score = exp(s) f(image) . g(prompt) / (|f(image)| |g(prompt)|)``; the shortest side of a
    picture becomes 224 pixels and its centre is cut out. Scores are near 22; a 26th of them is
    near the scale of the other rewards. Prompts reach the tokenizer as they are, as in training.

    Construction loads the model. Further arguments are those of `ModelReward`.

    Args:
        source: A folder or hub id in CLIPModel layout.
        tokenizer: A folder or hub id of its own; None takes that of a folder, else LAION's from
            the hub, with which it was trained.

    Raises:
        ModuleNotFoundError: transformers is not installed.
        FileNotFoundError: The hub cannot be reached, or a folder lacks files.
        ValueError: No such path, a file instead of a folder, or weights that do not fit.

    Example:
        >>> import torch
        >>> from flowbp.shapes.embedded import reward_folder
        >>> reward = PickScore(source=reward_folder())
        >>> reward(torch.rand(2, 3, 64, 48), ["a red circle", "two squares"]).shape
        torch.Size([2])

    Source: Kirstain et al., arXiv 2305.01569, section 4; github.com/yuvalkirstain/PickScore.
    """

    source: Place = attrs.field(default=_PUBLISHED, validator=located(folder="CLIPModel layout"))
    clip: ClipReward = attrs.field(init=False, repr=False)

    @staticmethod
    def needs(source: Place, tokenizer: Place | None) -> tuple[Need, ...]:
        """What its construction reads."""
        return package("transformers"), *clip_needs(source, tokenizer=_tokenizer(source, tokenizer))

    @clip.default
    def _load(self) -> ClipReward:
        return self._from_pretrained(_tokenizer(self.source, self.tokenizer), logit_scale=True)
