"""The similarity of picture and prompt under a CLIP model, as a reward."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING

import attrs
import torch
from torch import Tensor
from torch.nn import functional as F

from flowbp.adapters.policy import CPU, FLOAT32, DtypePolicy
from flowbp.rewards.clip_source import load_clip
from flowbp.rewards.pixels import CLIP_MEAN, CLIP_STD, Resize, crop_shortest_side, normalise

if TYPE_CHECKING:
    from transformers import CLIPModel, PreTrainedTokenizerBase
    from transformers.modeling_outputs import BaseModelOutputWithPooling


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


def _numbers(values: Iterable[float]) -> tuple[float, ...]:
    return tuple(values)


@attrs.frozen(kw_only=True, eq=False)
class ClipReward:
    """Cosine of a CLIP model's image and text embeddings, optionally times its logit scale.

    ``score = f(image) . g(prompt) / (|f(image)| |g(prompt)|)``, the last steps in float32 whatever
    the policy. Text embeddings are computed once per distinct prompt and kept on the device.

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
        policy: Dtypes of the model.
        device: Where it runs.

    Raises:
        ValueError: `mean` or `std` is not three numbers, or a `std` is not positive.

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
    mean: tuple[float, ...] = attrs.field(default=CLIP_MEAN, converter=_numbers)
    std: tuple[float, ...] = attrs.field(default=CLIP_STD, converter=_numbers)
    logit_scale: bool = False
    clean: Callable[[str], str] = as_written
    policy: DtypePolicy = FLOAT32
    device: torch.device = attrs.field(default=CPU, converter=torch.device)
    _statistics: tuple[Tensor, Tensor] = attrs.field(
        default=attrs.Factory(lambda self: self._on_device(), takes_self=True),
        init=False,
        repr=False,
    )
    _embeddings: dict[str, Tensor] = attrs.field(factory=dict, init=False, repr=False)

    def __attrs_post_init__(self) -> None:
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise ValueError(
                "`mean` and `std` must be three numbers each, `std` positive, got "
                f"{self.mean} and {self.std}; see image_mean and image_std of the model's "
                "preprocessor_config.json"
            )
        self.policy.place(self.model, self.device)
        self.model.requires_grad_(False).eval()

    @classmethod
    def from_pretrained(
        cls,
        source: str | os.PathLike[str],
        *,
        resize: Resize = crop_shortest_side,
        logit_scale: bool = False,
        clean: Callable[[str], str] = as_written,
        policy: DtypePolicy = FLOAT32,
        device: torch.device | str = "cpu",
    ) -> ClipReward:
        """Load a hub id or a local folder in CLIPModel layout: model, tokenizer, preprocessing.

        `mean` and `std` come from its preprocessor_config.json, or are CLIP's own without one.

        Args:
            source: ``owner/name`` or a folder with config.json, weights and tokenizer.
            resize: See the class; the same for the other arguments.
            logit_scale: Multiply the cosine by the model's logit scale.
            clean: Applied to each prompt.
            policy: Dtypes of the model.
            device: Where it runs.

        Returns:
            The reward.

        Raises:
            ModuleNotFoundError: transformers is not installed.
            FileNotFoundError: No such source, or a folder without model or tokenizer.
            ValueError: A model that is not a CLIPModel, or whose weights are incomplete.
        """
        loaded = load_clip(source, dtype=policy.weights)
        return cls(
            model=loaded.model,
            tokenizer=loaded.tokenizer,
            resize=resize,
            mean=loaded.mean,
            std=loaded.std,
            logit_scale=logit_scale,
            clean=clean,
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
        if images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(f"`images` must be (B, 3, H, W), got {tuple(images.shape)}")
        if isinstance(prompts, str) or len(prompts) != len(images):
            raise ValueError(
                f"`prompts` must be a sequence of {len(images)} strings, one per picture, got "
                f"{prompts!r}"
            )
        embeddings = self.embed_images(images)
        # An autocast set by the caller would round the dot product to 2e-3.
        with torch.autocast(self.device.type, enabled=False):
            scores = (embeddings * self.embed_prompts(prompts)).sum(-1)
            return scores * self._scale() if self.logit_scale else scores

    def embed_images(self, images: Tensor) -> Tensor:
        """Unit embeddings (B, D) of pictures (B, 3, H, W) in [0, 1]; differentiable."""
        size = self.model.config.vision_config.image_size
        with torch.autocast(self.device.type, enabled=False):
            pixels = self.resize(images.to(device=self.device, dtype=self.policy.state), size)
            pixels = normalise(pixels, *self._statistics)
        with self.policy.autocast(self.device):
            output = self.model.get_image_features(pixel_values=pixels.to(self.policy.weights))
        return self._unit(output)

    def embed_prompts(self, prompts: Sequence[str]) -> Tensor:
        """Unit embeddings (B, D) of B prompts, without gradient; each prompt is read once."""
        new = [prompt for prompt in dict.fromkeys(prompts) if prompt not in self._embeddings]
        if new:
            self._embeddings.update(zip(new, self._read(new), strict=True))
        return torch.stack([self._embeddings[prompt] for prompt in prompts])

    def _on_device(self) -> tuple[Tensor, Tensor]:
        # Once for all calls: a copy to the device waits for it.
        mean, std = (
            torch.tensor(values, dtype=self.policy.state, device=self.device)
            for values in (self.mean, self.std)
        )
        return mean, std

    @torch.no_grad()
    def _read(self, prompts: Sequence[str]) -> Tensor:
        batch = self.tokenizer(
            [self.clean(prompt) for prompt in prompts],
            padding="max_length",
            max_length=self.model.config.text_config.max_position_embeddings,
            truncation=True,
            # The end mark written out in a prompt must not end it: that is where CLIP reads.
            split_special_tokens=True,
            return_tensors="pt",
        )
        with self.policy.autocast(self.device):
            output = self.model.get_text_features(input_ids=batch.input_ids.to(self.device))
        return self._unit(output)

    def _scale(self) -> Tensor:
        scale: Tensor = self.model.logit_scale.to(self.policy.state).exp()
        return scale

    def _unit(self, output: Tensor | BaseModelOutputWithPooling) -> Tensor:
        # transformers 4 returns the embeddings themselves, transformers 5 an output object.
        features = output if isinstance(output, Tensor) else output.pooler_output
        with torch.autocast(self.device.type, enabled=False):
            return F.normalize(features.to(self.policy.state), dim=-1)
