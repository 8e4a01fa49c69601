"""CLIPScore: the cosine of picture and prompt under OpenAI's ViT-L/14."""

from __future__ import annotations

import attrs

from flowbp.extras import require
from flowbp.place import Place, located
from flowbp.rewards.clip import ClipReward, PublishedClipReward, repaired
from flowbp.rewards.clip_model import VIT_L_14, clip_needs
from flowbp.rewards.needs import Need, package
from flowbp.rewards.pixels import crop_shortest_side_torchvision


@attrs.frozen(kw_only=True, eq=False)
class CLIPScore(PublishedClipReward):
    """Cosine of picture and prompt under OpenAI's CLIP, as text-to-image papers report it.

    ``score = f(image) . g(prompt) / (|f(image)| |g(prompt)|)``, near 0.25. The paper's own number
    is 2.5 times its positive part, under ViT-B/32.

    Construction loads the model. Further arguments are those of `ModelReward`.

    Args:
        source: A folder or hub id in CLIPModel layout.
        tokenizer: A folder or hub id of its own; None takes that of `source`.

    Raises:
        ModuleNotFoundError: transformers or ftfy is not installed.
        FileNotFoundError: The hub cannot be reached, or a folder lacks files.
        ValueError: No such path, a file instead of a folder, or weights that do not fit.

    Example:
        >>> import torch
        >>> from flowbp.shapes.embedded import reward_folder
        >>> reward = CLIPScore(source=reward_folder())
        >>> reward(torch.rand(2, 3, 64, 48), ["a red circle", "two squares"]).shape
        torch.Size([2])

    Source: Hessel et al., arXiv 2104.08718, section 3.
    """

    source: Place = attrs.field(default=VIT_L_14, validator=located(folder="CLIPModel layout"))
    clip: ClipReward = attrs.field(init=False, repr=False)

    @staticmethod
    def needs(source: Place, tokenizer: Place | None) -> tuple[Need, ...]:
        """What its construction reads."""
        packages = package("transformers"), package("ftfy", extra="rewards")
        own = source if tokenizer is None else tokenizer
        return *packages, *clip_needs(source, tokenizer=own)

    @clip.default
    def _load(self) -> ClipReward:
        require("ftfy", extra="rewards")
        return self._from_pretrained(
            self.tokenizer, resize=crop_shortest_side_torchvision, clean=repaired
        )
