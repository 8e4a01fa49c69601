"""The similarity of picture and prompt under a CLIP model, as a reward."""

from __future__ import annotations

import html
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import attrs
import torch
from torch import Tensor
from torch.nn import functional as F

from flowbp.adapters.dtype_policy import CPU, FLOAT32, DtypePolicy
from flowbp.extras import require
from flowbp.place import Place, located
from flowbp.rewards.clip_model import check_vocabulary, clip_needs, load_clip_model
from flowbp.rewards.needs import Need, needing, package
from flowbp.rewards.pixels import (
    CLIP_MEAN,
    CLIP_STD,
    Resize,
    channel_tensors,
    crop_shortest_side,
    normalise,
)
from flowbp.rewards.pretrained import channel_statistics, load_tokenizer
from flowbp.rewards.reward import batch_size, check_images, check_prompts, score_in_batches
from flowbp.rewards.towers import TOWERS, ModelReward, Towers

if TYPE_CHECKING:
    from transformers import CLIPModel, PreTrainedTokenizerBase
    from transformers.modeling_outputs import BaseModelOutputWithPooling


def as_written(prompt: str) -> str:
    """The prompt unchanged: the default cleaning."""
    return prompt


def repaired(prompt: str) -> str:
    """Broken Unicode and HTML entities repaired, white space collapsed, lower case.

    So OpenAI's CLIP and open_clip hand a prompt to the tokenizer. ``ftfy`` repairs the Unicode,
    straightens quotes and takes ligatures apart. Entities are resolved twice, because web captions
    were often escaped twice.

    Raises:
        ModuleNotFoundError: ftfy is not installed.

    Example:
        >>> repaired("“Fish &amp;amp;  Chips”")
        '"fish & chips"'

    Source: OpenAI CLIP, clip/simple_tokenizer.py; open_clip, tokenizer.py.
    """
    text: str = require("ftfy", extra="rewards").fix_text(prompt)
    return " ".join(html.unescape(html.unescape(text)).split()).lower()


def _numbers(values: Iterable[float]) -> tuple[float, ...]:
    return tuple(values)


@attrs.frozen(kw_only=True, eq=False)
class ClipTower:
    """Unit embeddings of pictures under a CLIP model: ``f(image) / |f(image)|``.

    The model runs under the policy; resizing and the last division are in float32. Construction
    moves the model to `device`, casts and freezes it.

    Args:
        model: A transformers CLIPModel.
        resize: How pictures become squares of the model's image size.
        mean: Channel means the model was trained with.
        std: Channel standard deviations the model was trained with.
        batch: Pictures in the model at a time, and again in the backward pass: only one batch's
            activations exist at a time, for one more forward pass. Embeddings then differ by
            rounding alone, as they do between batches of any sizes. None takes all.
        policy: Dtypes of the model.
        device: Where it runs.

    Raises:
        ValueError: `mean` or `std` is not three numbers, a `std` is not positive, or `batch` is
            below 1.

    Source: Radford et al., arXiv 2103.00020, section 2.3.
    """

    model: CLIPModel
    resize: Resize = crop_shortest_side
    mean: tuple[float, ...] = attrs.field(default=CLIP_MEAN, converter=_numbers)
    std: tuple[float, ...] = attrs.field(default=CLIP_STD, converter=_numbers)
    batch: int | None = attrs.field(default=None, validator=batch_size)
    policy: DtypePolicy = FLOAT32
    device: torch.device = attrs.field(default=CPU, converter=torch.device)
    _statistics: tuple[Tensor, Tensor] = attrs.field(init=False, repr=False)

    @_statistics.default
    def _on_device(self) -> tuple[Tensor, Tensor]:
        return channel_tensors(self.mean, self.std, dtype=self.policy.state, device=self.device)

    def __attrs_post_init__(self) -> None:
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise ValueError(
                "`mean` and `std` must be three numbers each, `std` positive, got "
                f"{self.mean} and {self.std}; see image_mean and image_std of the model's "
                "preprocessor_config.json"
            )
        self.policy.place(self.model, self.device)
        self.model.requires_grad_(False).eval()

    def embed_images(self, images: Tensor) -> Tensor:
        """Embed B pictures (B, 3, H, W) in [0, 1] of any size as (B, D), differentiably.

        The embeddings are in float32 (float64 under a float64 policy).
        """
        check_images(images)
        return score_in_batches(self._embedded, images, batch=self.batch)

    def _embedded(self, images: Tensor) -> Tensor:
        size = self.model.config.vision_config.image_size
        with torch.autocast(self.device.type, enabled=False):
            pixels = self.resize(images.to(device=self.device, dtype=self.policy.state), size)
            pixels = normalise(pixels, *self._statistics)
        with self.policy.autocast(self.device):
            output = self.model.get_image_features(pixel_values=pixels.to(self.policy.weights))
        return self._unit(output)

    def _unit(self, output: Tensor | BaseModelOutputWithPooling) -> Tensor:
        """What `get_image_features` or `get_text_features` returned, as (B, D) of length one."""
        # transformers 4 returns the embeddings themselves, transformers 5 an output object.
        features = output if isinstance(output, Tensor) else output.pooler_output
        # An autocast set by the caller would round embeddings to bfloat16.
        with torch.autocast(self.device.type, enabled=False):
            return F.normalize(features.to(self.policy.state), dim=-1)


def load_clip(
    source: Place, *, policy: DtypePolicy, device: torch.device | str, towers: Towers
) -> Mapping[str, Any]:
    """The arguments of a `ClipTower` for a hub id or a folder in CLIPModel layout.

    `mean` and `std` come from its preprocessor_config.json, or are CLIP's own without one.
    """
    mean, std = channel_statistics(source)
    model = load_clip_model(source, dtype=policy.weights, device=device, towers=towers)
    return {"model": model, "mean": mean, "std": std, "policy": policy, "device": device}


def _needs(source: Place, tokenizer: Place | None) -> tuple[Need, ...]:
    return (
        package("transformers"),
        *clip_needs(source, tokenizer=source if tokenizer is None else tokenizer),
    )


@attrs.frozen(kw_only=True, eq=False)
class ClipReward(ClipTower):
    """Cosine of a CLIP model's image and text embeddings, optionally times its logit scale.

    ``score = f(image) . g(prompt) / (|f(image)| |g(prompt)|)``, the last steps in float32 whatever
    the policy. Text embeddings are computed once per distinct prompt, each by itself, and kept on
    the device: they are the same to the bit whatever else is scored before or beside. Which other
    pictures share the batch changes a score by rounding alone.

    Args:
        model: A transformers CLIPModel; `resize`, `mean`, `std`, `batch`, `policy` and `device`
            are those of `ClipTower`.
        tokenizer: Its tokenizer.
        logit_scale: Multiply the cosine by ``exp(model.logit_scale)``, as PickScore does.
        clean: Applied to each prompt before the tokenizer. CLIP's original pipeline repaired
            broken Unicode and HTML entities there, which transformers 5 no longer does.

    Raises:
        ValueError: As `ClipTower`.

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

    tokenizer: PreTrainedTokenizerBase
    logit_scale: bool = False
    clean: Callable[[str], str] = as_written
    _embeddings: dict[str, Tensor] = attrs.field(factory=dict, init=False, repr=False)

    @classmethod
    @needing(_needs)
    def from_pretrained(
        cls,
        source: Place,
        *,
        resize: Resize = crop_shortest_side,
        logit_scale: bool = False,
        clean: Callable[[str], str] = as_written,
        batch: int | None = None,
        tokenizer: Place | None = None,
        policy: DtypePolicy = FLOAT32,
        device: torch.device | str = "cpu",
        towers: Towers = TOWERS,
    ) -> ClipReward:
        """Load a hub id or a local folder in CLIPModel layout: model, tokenizer, preprocessing.

        Args:
            source: ``owner/name`` or a folder with config.json, weights and tokenizer.
            resize: How pictures are brought to the model's size.
            logit_scale: Multiply the cosine by the model's logit scale.
            clean: Applied to each prompt.
            batch: Pictures in the model at a time; None takes all. It changes scores by rounding
                alone.
            tokenizer: A hub id or a folder of its own; None takes that of `source`.
            policy: Dtypes of the model.
            device: Where it runs.
            towers: The pool in which models are shared.

        Raises:
            ModuleNotFoundError: transformers is not installed.
            FileNotFoundError: No such source, or a folder without model or tokenizer.
            ValueError: A model that is not a CLIPModel, or whose weights are incomplete.
        """
        loaded = load_clip(source, policy=policy, device=device, towers=towers)
        words = (
            load_tokenizer(source, argument="source")
            if tokenizer is None
            else load_tokenizer(tokenizer)
        )
        check_vocabulary(words, loaded["model"])
        return cls(
            **loaded,
            tokenizer=words,
            resize=resize,
            logit_scale=logit_scale,
            clean=clean,
            batch=batch,
        )

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Score B pictures (B, 3, H, W) in [0, 1] of any size against B prompts.

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
            if not self.logit_scale:
                return scores
            scale: Tensor = self.model.logit_scale.to(self.policy.state).exp()
            return scores * scale

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
        return self._unit(output)[0]


@attrs.frozen(kw_only=True, eq=False)
class PublishedClipReward(ModelReward):
    """What rewards by a published CLIP have in common; see `ModelReward`.

    Args:
        source: A folder or hub id in CLIPModel layout.
        tokenizer: A folder or hub id of its own; None takes that of `source`.
    """

    source: Place = attrs.field(validator=located(folder="CLIPModel layout"))
    tokenizer: Place | None = attrs.field(
        default=None, validator=located(folder="a CLIP tokenizer")
    )
    clip: ClipReward = attrs.field(init=False, repr=False)

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Score B pictures (B, 3, H, W) in [0, 1] against B prompts: (B,), differentiable."""
        return self.clip(images, prompts)

    def _from_pretrained(self, tokenizer: Place | None, **fields: Any) -> ClipReward:
        # Now, because validators run last and loading comes before that.
        attrs.validate(self)
        return ClipReward.from_pretrained(
            self.source,
            tokenizer=tokenizer,
            batch=self.batch,
            policy=self.policy,
            device=self.device,
            towers=self.towers,
            **fields,
        )
