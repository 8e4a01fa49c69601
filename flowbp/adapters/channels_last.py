"""A decoder whose pictures lie in memory pixel by pixel, as the convolutions of a GPU read them."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def lay_out_channels_last(decoder: nn.Module) -> None:
    """Have a decoder keep the channels of a pixel beside each other, from its first layer on.

    Convolutions of half precision are computed that way; otherwise each transposes its input and
    output. torch's own group norm goes back to the usual layout on a GPU, and the gradient of its
    upsampling adds up one by one, so both are replaced by sums and products that a compiler fuses.
    Not compiled, these are slower than torch's own. Parameters and their names stay; the values
    are the same up to rounding.

    Args:
        decoder: Of a diffusers VAE; changed in place, for good.

    Example:
        >>> from diffusers.models.autoencoders.vae import Decoder
        >>> decoder = Decoder(in_channels=4, block_out_channels=(32,))
        >>> lay_out_channels_last(decoder)
        >>> decoder.conv_in(torch.zeros(1, 4, 2, 2)).stride()
        (128, 1, 64, 32)
    """
    from diffusers.models.upsampling import Upsample2D

    decoder.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    for part in decoder.modules():
        if type(part) is nn.GroupNorm:
            part.__class__ = ChannelsLastGroupNorm
        elif type(part) is Upsample2D and part.interpolate and part.use_conv and part.norm is None:
            part.conv.register_forward_pre_hook(_double)
            part.interpolate = False


class ChannelsLastGroupNorm(nn.GroupNorm):
    """Group norm by sums and products: mean and variance of each channel, then of each group.

    The variance of a group is the mean of its channels' variances and the variance of their means.

    Example:
        >>> x = torch.arange(16.0).reshape(1, 4, 2, 2)
        >>> theirs, ours = nn.GroupNorm(2, 4), ChannelsLastGroupNorm(2, 4)
        >>> torch.allclose(theirs(x), ours(x))
        True

    Reference: Wu and He, "Group Normalization", arXiv 1803.08494.
    """

    def forward(self, input: Tensor) -> Tensor:
        """Normalize (B, C, …) to the same shape, layout and dtype."""
        x = input.to(torch.promote_types(input.dtype, torch.float32))
        spatial = tuple(range(2, x.ndim))
        variance, mean = torch.var_mean(x, dim=spatial, correction=0)
        grouped = (len(x), self.num_groups, -1)
        means = mean.view(grouped)
        spread = variance.view(grouped).mean(2, keepdim=True)
        spread = spread + means.var(2, correction=0, keepdim=True)
        center = means.mean(2, keepdim=True).expand_as(means).flatten(1)
        scale = (spread + self.eps).rsqrt().expand_as(means).flatten(1)
        if self.affine:
            scale = scale * self.weight
        where = (..., *(None,) * len(spatial))
        normal: Tensor = (x - center[where]) * scale[where]
        if self.affine:
            normal = normal + self.bias[where]
        return normal.to(input.dtype)


def doubled(pixels: Tensor) -> Tensor:
    """Every pixel twice in both directions.

    Args:
        pixels: (B, C, H, W).

    Returns:
        (B, C, 2H, 2W), channels last.

    Example:
        >>> doubled(torch.tensor([[[[1, 2]]]]))
        tensor([[[[1, 1, 2, 2],
                  [1, 1, 2, 2]]]])
    """
    b, c, h, w = pixels.shape
    rows = pixels.permute(0, 2, 3, 1)[:, :, None, :, None]
    return rows.expand(b, h, 2, w, 2, c).reshape(b, 2 * h, 2 * w, c).permute(0, 3, 1, 2)


def _double(convolution: nn.Module, inputs: tuple[Tensor]) -> tuple[Tensor]:
    return (doubled(*inputs),)
