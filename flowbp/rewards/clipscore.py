"""CLIPScore: the cosine of picture and prompt under OpenAI's ViT-L/14."""

from __future__ import annotations

from collections.abc import Sequence

import attrs
import torch
from torch import Tensor

from flowbp.adapters.dtype_policy import CPU, FLOAT32, DtypePolicy
from flowbp.extras import require
from flowbp.rewards.clip import ClipReward, repaired
from flowbp.rewards.clip_model import VIT_L_14, clip_needs
from flowbp.rewards.model_files import Place, located
from flowbp.rewards.needs import Need, package
from flowbp.rewards.pixels import crop_shortest_side_torchvision
from flowbp.rewards.reward import batch_size
from flowbp.rewards.towers import TOWERS, Towers


@attrs.frozen(kw_only=True, eq=False)
class CLIPScore:
    """Cosine of picture and prompt under OpenAI's CLIP, as text-to-image papers report it.

    ``score = f(image) . g(prompt) / (|f(image)| |g(prompt)|)``, near 0.25. The paper's own number
    is 2.5 times its positive part, under ViT-B/32.

    Construction loads the model. `batch` changes scores by rounding alone.

    Args:
        source: A folder or hub id in CLIPModel layout.
        tokenizer: A folder or hub id of its own; None takes that of `source`.
        batch: Pictures in the model at a time; see `ClipTower`.
        policy: Dtypes of the model; bfloat16 leaves the normalisation and the dot in float32.
        device: Where it runs.
        towers: The pool in which models are shared.

    Raises:
        ModuleNotFoundError: transformers or ftfy is not installed.
        FileNotFoundError: The hub cannot be reached, or a folder lacks files.
        ValueError: No such path, a file instead of a folder, or weights that do not fit.

    Example:
        >>> from flowbp.shapes.embedded import reward_folder
        >>> reward = CLIPScore(source=reward_folder())
        >>> reward(torch.rand(2, 3, 64, 48), ["a red circle", "two squares"]).shape
        torch.Size([2])

    Source: Hessel et al., arXiv 2104.08718, section 3.
    """

    source: Place = attrs.field(default=VIT_L_14, validator=located(folder="CLIPModel layout"))
    tokenizer: Place | None = attrs.field(
        default=None, validator=located(folder="a CLIP tokenizer")
    )
    batch: int | None = attrs.field(default=None, validator=batch_size)
    policy: DtypePolicy = FLOAT32
    device: torch.device = attrs.field(default=CPU, converter=torch.device)
    towers: Towers = attrs.field(default=TOWERS, repr=False)
    clip: ClipReward = attrs.field(init=False, repr=False)

    @staticmethod
    def needs(source: Place, tokenizer: Place | None) -> tuple[Need, ...]:
        """What its construction reads."""
        packages = package("transformers"), package("ftfy", extra="rewards")
        own = source if tokenizer is None else tokenizer
        return *packages, *clip_needs(source, tokenizer=own)

    @clip.default
    def _load(self) -> ClipReward:
        # Now, because validators run last and loading comes before that.
        attrs.validate(self)
        require("ftfy", extra="rewards")
        return ClipReward.from_pretrained(
            self.source,
            tokenizer=self.tokenizer,
            resize=crop_shortest_side_torchvision,
            clean=repaired,
            batch=self.batch,
            policy=self.policy,
            device=self.device,
            towers=self.towers,
        )

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Score B pictures (B, 3, H, W) in [0, 1] against B prompts: (B,), differentiable."""
        return self.clip(images, prompts)
