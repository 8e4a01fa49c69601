"""The similarity of picture and prompt under a CLIP model, as a reward."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import attrs
import torch
from torch import Tensor

from flowbp.adapters.policy import CPU, FLOAT32, DtypePolicy
from flowbp.rewards.clip_source import clip_needs, load_clip
from flowbp.rewards.clip_tower import ClipTower
from flowbp.rewards.needs import Need, needing, package
from flowbp.rewards.pixels import CLIP_MEAN, CLIP_STD, Resize, crop_shortest_side
from flowbp.rewards.reward import check_prompts
from flowbp.rewards.towers import TOWERS, Towers

if TYPE_CHECKING:
    from transformers import CLIPModel, PreTrainedTokenizerBase


def as_written(prompt: str) -> str:
    """The prompt unchanged: the default cleaning.

    Args:
        prompt: Any text.

    Returns:
        The same text.

    Example:
        >>> as_written("A red circle")
        'A red circle'
    """
    return prompt


def _needs(
    source: str | os.PathLike[str], tokenizer: str | os.PathLike[str] | None
) -> tuple[Need, ...]:
    return (
        package("transformers"),
        *clip_needs(source, tokenizer=source if tokenizer is None else tokenizer),
    )


@attrs.frozen(kw_only=True, eq=False)
class ClipReward:
    """Cosine of a CLIP model's image and text embeddings, optionally times its logit scale.

    ``score = f(image) . g(prompt) / (|f(image)| |g(prompt)|)``, the last steps in float32 whatever
    the policy. Text embeddings are computed once per distinct prompt, each by itself, and kept on
    the device: they are the same to the bit whatever else is scored before or beside. Which other
    pictures share the batch changes a score by rounding alone.

    Construction moves the model to `device`, casts and freezes it.

    Args:
        model: A transformers CLIPModel.
        tokenizer: Its tokenizer.
        resize: How pictures become squares of the model's image size.
        mean: Channel means the model was trained with.
        std: Channel standard deviations the model was trained with.
        logit_scale: Multiply the cosine by ``exp(model.logit_scale)``, as PickScore does.
        clean: Applied to each prompt before the tokenizer. CLIP's original pipeline repaired
            broken Unicode and HTML entities there, which transformers 5 no longer does.
        batch: Pictures in the model at a time; see `ClipTower`. None takes all.
        policy: Dtypes of the model.
        device: Where it runs.

    Raises:
        ValueError: `mean` or `std` is not three numbers, a `std` is not positive, or `batch` is
            below 1.

    Example:
        >>> from transformers import CLIPConfig, CLIPModel, CLIPTokenizer
        >>> sizes = dict(hidden_size=8, intermediate_size=8, num_hidden_layers=1,
        ...              num_attention_heads=1)
        >>> model = CLIPModel(CLIPConfig(
        ...     text_config=dict(vocab_size=3, eos_token_id=1, **sizes),
        ...     vision_config=dict(image_size=8, patch_size=4, **sizes)))
        >>> reward = ClipReward(model=model, tokenizer=CLIPTokenizer())
        >>> reward(torch.rand(2, 3, 16, 12), ["a circle", "a square"]).shape
        torch.Size([2])

    Source: Radford et al., arXiv 2103.00020, section 2.3; Hessel et al., arXiv 2104.08718.
    """

    model: CLIPModel
    tokenizer: PreTrainedTokenizerBase
    resize: Resize = crop_shortest_side
    mean: tuple[float, ...] = CLIP_MEAN
    std: tuple[float, ...] = CLIP_STD
    logit_scale: bool = False
    clean: Callable[[str], str] = as_written
    batch: int | None = None
    policy: DtypePolicy = FLOAT32
    device: torch.device = attrs.field(default=CPU, converter=torch.device)
    tower: ClipTower = attrs.field(init=False, repr=False)
    _embeddings: dict[str, Tensor] = attrs.field(factory=dict, init=False, repr=False)

    @tower.default
    def _tower(self) -> ClipTower:
        return ClipTower(
            model=self.model,
            resize=self.resize,
            mean=self.mean,
            std=self.std,
            batch=self.batch,
            policy=self.policy,
            device=self.device,
        )

    @classmethod
    @needing(_needs)
    def from_pretrained(
        cls,
        source: str | os.PathLike[str],
        *,
        resize: Resize = crop_shortest_side,
        logit_scale: bool = False,
        clean: Callable[[str], str] = as_written,
        batch: int | None = None,
        tokenizer: str | os.PathLike[str] | None = None,
        policy: DtypePolicy = FLOAT32,
        device: torch.device | str = "cpu",
        towers: Towers = TOWERS,
    ) -> ClipReward:
        """Load a hub id or a local folder in CLIPModel layout: model, tokenizer, preprocessing.

        `mean` and `std` come from its preprocessor_config.json, or are CLIP's own without one.

        Args:
            source: ``owner/name`` or a folder with config.json, weights and tokenizer.
            resize: See the class; the same for the other arguments.
            logit_scale: Multiply the cosine by the model's logit scale.
            clean: Applied to each prompt.
            batch: Pictures in the model at a time.
            tokenizer: A hub id or a folder of its own; None takes that of `source`.
            policy: Dtypes of the model.
            device: Where it runs.
            towers: With whom the model is shared.

        Returns:
            The reward.

        Raises:
            ModuleNotFoundError: transformers is not installed.
            FileNotFoundError: No such source, or a folder without model or tokenizer.
            ValueError: A model that is not a CLIPModel, or whose weights are incomplete.
        """
        loaded = load_clip(
            source, tokenizer=tokenizer, dtype=policy.weights, device=device, towers=towers
        )
        return cls(
            model=loaded.model,
            tokenizer=loaded.tokenizer,
            resize=resize,
            mean=loaded.mean,
            std=loaded.std,
            logit_scale=logit_scale,
            clean=clean,
            batch=batch,
            policy=policy,
            device=device,
        )

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Score B pictures against B prompts.

        Args:
            images: (B, 3, H, W) in [0, 1], any size.
            prompts: B prompts.

        Returns:
            (B,) scores in float32 (float64 under a float64 policy).

        Raises:
            ValueError: Images of another shape, or another number of prompts.
        """
        check_prompts(images, prompts)
        embeddings = self.embed_images(images)
        # An autocast set by the caller would round the dot product to 2e-3.
        with torch.autocast(self.device.type, enabled=False):
            scores = (embeddings * self.embed_prompts(prompts)).sum(-1)
            return scores * self._scale() if self.logit_scale else scores

    def embed_images(self, images: Tensor) -> Tensor:
        """Unit embeddings (B, D) of pictures (B, 3, H, W) in [0, 1]; differentiable."""
        return self.tower(images)

    def embed_prompts(self, prompts: Sequence[str]) -> Tensor:
        """Unit embeddings (B, D) of B prompts, without gradient; each prompt is read once."""
        for prompt in prompts:
            if prompt not in self._embeddings:
                # One at a time: a product of another size rounds otherwise, and what is kept
                # would depend on the batch in which a prompt came first, unknown to a resumed run.
                self._embeddings[prompt] = self._read(prompt)
        return torch.stack([self._embeddings[prompt] for prompt in prompts])

    @torch.no_grad()
    def _read(self, prompt: str) -> Tensor:
        batch = self.tokenizer(
            [self.clean(prompt)],
            padding="max_length",
            max_length=self.model.config.text_config.max_position_embeddings,
            truncation=True,
            # The end mark written out in a prompt must not end it: that is where CLIP reads.
            split_special_tokens=True,
            return_tensors="pt",
        )
        with self.policy.autocast(self.device):
            output = self.model.get_text_features(input_ids=batch.input_ids.to(self.device))
        return self.tower.unit(output)[0]

    def _scale(self) -> Tensor:
        scale: Tensor = self.model.logit_scale.to(self.policy.state).exp()
        return scale
