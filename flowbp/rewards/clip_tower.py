"""The picture half of a CLIP model: pixels to unit embeddings, as many at a time as fit."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

import attrs
import torch
from torch import Tensor
from torch.nn import functional as F

from flowbp.adapters.policy import CPU, FLOAT32, DtypePolicy
from flowbp.core._validators import integer
from flowbp.limits import BATCH
from flowbp.rewards.pixels import CLIP_MEAN, CLIP_STD, Resize, crop_shortest_side, normalise
from flowbp.rewards.portions import in_portions

if TYPE_CHECKING:
    from transformers import CLIPModel
    from transformers.modeling_outputs import BaseModelOutputWithPooling


def _numbers(values: Iterable[float]) -> tuple[float, ...]:
    return tuple(values)


@attrs.frozen(kw_only=True, eq=False)
class ClipTower:
    """Unit embeddings of pictures under a CLIP model: ``f(image) / |f(image)|``.

    The model runs under the policy; resizing and the last division are in float32.

    With `batch`, pictures go through in parts of that many, and every part is computed again in
    the backward pass: only one part's activations exist at a time, for one more forward pass.
    Embeddings then differ by rounding alone, as they do between batches of any sizes.

    Construction moves the model to `device`, casts and freezes it.

    Args:
        model: A transformers CLIPModel.
        resize: How pictures become squares of the model's image size.
        mean: Channel means the model was trained with.
        std: Channel standard deviations the model was trained with.
        batch: Pictures at a time; None takes all.
        policy: Dtypes of the model.
        device: Where it runs.

    Raises:
        ValueError: `mean` or `std` is not three numbers, a `std` is not positive, or `batch` is
            below 1.

    Example:
        >>> from transformers import CLIPConfig, CLIPModel
        >>> sizes = dict(hidden_size=8, intermediate_size=8, num_hidden_layers=1,
        ...              num_attention_heads=1)
        >>> model = CLIPModel(CLIPConfig(projection_dim=4, text_config=dict(vocab_size=3, **sizes),
        ...     vision_config=dict(image_size=8, patch_size=4, **sizes)))
        >>> ClipTower(model=model, batch=2)(torch.rand(3, 3, 16, 12)).shape
        torch.Size([3, 4])

    Source: Radford et al., arXiv 2103.00020, section 2.3.
    """

    model: CLIPModel
    resize: Resize = crop_shortest_side
    mean: tuple[float, ...] = attrs.field(default=CLIP_MEAN, converter=_numbers)
    std: tuple[float, ...] = attrs.field(default=CLIP_STD, converter=_numbers)
    batch: int | None = attrs.field(
        default=None, validator=attrs.validators.optional(integer(1, BATCH))
    )
    policy: DtypePolicy = FLOAT32
    device: torch.device = attrs.field(default=CPU, converter=torch.device)
    _statistics: tuple[Tensor, Tensor] = attrs.field(
        default=attrs.Factory(lambda self: self._on_device(), takes_self=True),
        init=False,
        repr=False,
    )

    def __attrs_post_init__(self) -> None:
        if len(self.mean) != 3 or len(self.std) != 3 or min(self.std) <= 0:
            raise ValueError(
                "`mean` and `std` must be three numbers each, `std` positive, got "
                f"{self.mean} and {self.std}; see image_mean and image_std of the model's "
                "preprocessor_config.json"
            )
        self.policy.place(self.model, self.device)
        self.model.requires_grad_(False).eval()

    def __call__(self, images: Tensor) -> Tensor:
        """Embed B pictures.

        Args:
            images: (B, 3, H, W) in [0, 1], any size.

        Returns:
            (B, D) of length one, in float32 (float64 under a float64 policy); differentiable.

        Raises:
            ValueError: Images of another shape.
        """
        if images.ndim != 4 or images.shape[1] != 3:
            raise ValueError(f"`images` must be (B, 3, H, W), got {tuple(images.shape)}")
        return in_portions(self._embedded, images, batch=self.batch)

    def unit(self, output: Tensor | BaseModelOutputWithPooling) -> Tensor:
        """Features of the model (B, D), of pictures or prompts, at length one.

        Args:
            output: What the model's `get_image_features` or `get_text_features` returned.

        Returns:
            (B, D) in the policy's `state`.
        """
        # transformers 4 returns the embeddings themselves, transformers 5 an output object.
        features = output if isinstance(output, Tensor) else output.pooler_output
        # An autocast set by the caller would round embeddings to bfloat16.
        with torch.autocast(self.device.type, enabled=False):
            return F.normalize(features.to(self.policy.state), dim=-1)

    def _embedded(self, images: Tensor) -> Tensor:
        size = self.model.config.vision_config.image_size
        with torch.autocast(self.device.type, enabled=False):
            pixels = self.resize(images.to(device=self.device, dtype=self.policy.state), size)
            pixels = normalise(pixels, *self._statistics)
        with self.policy.autocast(self.device):
            output = self.model.get_image_features(pixel_values=pixels.to(self.policy.weights))
        return self.unit(output)

    def _on_device(self) -> tuple[Tensor, Tensor]:
        # Once for all calls: a copy to the device waits for it.
        mean, std = (
            torch.tensor(values, dtype=self.policy.state, device=self.device)
            for values in (self.mean, self.std)
        )
        return mean, std
