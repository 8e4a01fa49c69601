"""A frozen network in few bits: each matrix is widened for a product, and freed after it."""

from __future__ import annotations

from typing import Any, Literal, Protocol

import attrs
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from flowbp.adapters.compilation import blocks_of
from flowbp.extras import require

Quantization = Literal["nf4", "int8"]
"""How the matrices of a network's blocks are kept: in 4.5 or in 8 bits a weight."""


class Format(Protocol):
    """Writes a matrix in few bits, and reads it."""

    def check(self) -> None:
        """Refuse what is not installed."""
        ...

    def packed(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """A matrix (rows, columns) in few bits, with its scales in float32."""
        ...

    def widened(self, packed: Tensor, scales: Tensor, size: list[int], like: torch.dtype) -> Tensor:
        """The matrix again, of `size` (rows, columns)."""
        ...


@attrs.frozen
class Int8:
    """Whole numbers of one byte, each row by its largest: ``s q``, with q from -127 to 127."""

    def check(self) -> None:
        """Nothing besides torch is needed."""

    def packed(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """The q (rows, columns) and the s (rows, 1)."""
        wide = weight.float()
        scales = wide.abs().amax(dim=1, keepdim=True) / 127
        # A row of zeros has any scale.
        divisors = torch.where(scales > 0, scales, torch.ones_like(scales))
        return (wide / divisors).round().to(torch.int8), scales

    def widened(self, packed: Tensor, scales: Tensor, size: list[int], like: torch.dtype) -> Tensor:
        """``s q``, computed in float32 and rounded once."""
        return torch.mul(packed, scales, out=torch.empty(size, dtype=like, device=packed.device))


_BLOCK = 64


@attrs.frozen
class Nf4:
    """4 bits, the quantiles of a normal distribution, and a float32 scale for each 64 weights.

    As in diffusers with ``BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")``.

    Reference: Dettmers et al., QLoRA, arXiv 2305.14314, section 3.
    """

    def check(self) -> None:
        """Refuse an environment without bitsandbytes."""
        require("bitsandbytes", extra="quantization")

    def packed(self, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Two weights a byte (rows * columns / 2, 1), and the scales (rows * columns / 64,)."""
        narrow = weight.float() if weight.dtype == torch.float64 else weight
        packed, scales = _bitsandbytes().quantize_4bit(
            narrow.contiguous(), _BLOCK, "nf4", torch.uint8
        )
        return packed, scales.float()

    def widened(self, packed: Tensor, scales: Tensor, size: list[int], like: torch.dtype) -> Tensor:
        """The matrix, in float32 at most before it is cast."""
        dtype = torch.float32 if like == torch.float64 else like
        found: Tensor = _bitsandbytes().dequantize_4bit(packed, scales, _BLOCK, "nf4", size, dtype)
        return found.to(like)


def _bitsandbytes() -> Any:
    require("bitsandbytes", extra="quantization")
    # Its operations, not its layers: these change how the weights lie in memory when one samples on
    # a CPU, and have no gradient then.
    return torch.ops.bitsandbytes


FORMATS: dict[Quantization, Format] = {"nf4": Nf4(), "int8": Int8()}


# Operations of their own, so that what a compiler keeps for the backward pass is never a matrix
# that was widened.
@torch.library.custom_op(
    "flowbp::quantized_linear",
    mutates_args=(),
    schema="(Tensor x, Tensor packed, Tensor scales, Tensor? bias, int rows, str form) -> Tensor",
)
def _product(
    x: Tensor, packed: Tensor, scales: Tensor, bias: Tensor | None, rows: int, form: str
) -> Tensor:
    return F.linear(x, _widened(packed, scales, [rows, x.shape[-1]], form, x.dtype), bias)


@_product.register_fake
def _(
    x: Tensor, packed: Tensor, scales: Tensor, bias: Tensor | None, rows: int, form: str
) -> Tensor:
    return x.new_empty((*x.shape[:-1], rows))


@torch.library.custom_op(
    "flowbp::quantized_linear_pull",
    mutates_args=(),
    schema="(Tensor cotangent, Tensor packed, Tensor scales, int columns, str form) -> Tensor",
)
def _pull(cotangent: Tensor, packed: Tensor, scales: Tensor, columns: int, form: str) -> Tensor:
    rows = cotangent.shape[-1]
    return cotangent @ _widened(packed, scales, [rows, columns], form, cotangent.dtype)


@_pull.register_fake
def _(cotangent: Tensor, packed: Tensor, scales: Tensor, columns: int, form: str) -> Tensor:
    return cotangent.new_empty((*cotangent.shape[:-1], columns))


def _widened(
    packed: Tensor, scales: Tensor, size: list[int], form: Any, dtype: torch.dtype
) -> Tensor:
    return FORMATS[form].widened(packed, scales.view(torch.float32), size, dtype)


class _Linear(torch.autograd.Function):
    """The product with a gradient in x alone."""

    @staticmethod
    def forward(
        x: Tensor, packed: Tensor, scales: Tensor, bias: Tensor | None, rows: int, form: str
    ) -> Tensor:
        found: Tensor = _product(x, packed, scales, bias, rows, form)
        return found

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, packed, scales, _, _, ctx.form = inputs
        ctx.columns = x.shape[-1]
        ctx.save_for_backward(packed, scales)

    @staticmethod
    def backward(ctx: Any, cotangent: Tensor) -> tuple[Tensor | None, ...]:
        packed, scales = ctx.saved_tensors
        pulled = _pull(cotangent, packed, scales, ctx.columns, ctx.form)
        return pulled, None, None, None, None, None


class QuantizedLinear(nn.Linear):
    """``x Wᵀ + b`` with a frozen W of few bits, computed in the dtype of x.

    Both the product and its pullback are those of the widened W, which is never kept.
    """

    def __init__(
        self, linear: nn.Linear, form: Quantization, device: torch.device | None = None
    ) -> None:
        # Not that of a linear layer, which would draw a W.
        nn.Module.__init__(self)
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.form = form
        packed, scales = FORMATS[form].packed(linear.weight.detach().to(device))
        self.weight = nn.Parameter(packed, requires_grad=False)
        # As bytes, so that a cast of the network does not round them.
        self.scales = nn.Parameter(scales.view(torch.uint8), requires_grad=False)
        self.bias = linear.bias
        if self.bias is not None:
            self.bias.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        """(…, in) to (…, out), in the dtype of `x`, or of autocast."""
        kind = x.device.type
        if kind != "meta" and torch.is_autocast_enabled(kind):
            x = x.to(torch.get_autocast_dtype(kind))
        bias = None if self.bias is None else self.bias.to(x.dtype)
        inputs = x, self.weight, self.scales, bias, self.out_features, self.form
        found: Tensor = _Linear.apply(*inputs)  # type: ignore[no-untyped-call]
        return found


@torch.no_grad()
def quantize(network: nn.Module, form: Quantization, device: torch.device | None = None) -> None:
    """Quantise the linear layers of a network's blocks in place, one by one.

    Each moves to the `device`, or stays where it is.

    What is outside of the blocks, their biases and their norms stay as they are. Layers that are
    quantised already stay too.
    """
    for block in blocks_of(network):
        for parent in list(block.modules()):
            for name, child in list(parent.named_children()):
                # Not a layer of a class of its own, whose weights may be read elsewhere.
                if type(child) is nn.Linear:
                    setattr(parent, name, QuantizedLinear(child, form, device))


def check_quantization(form: Quantization | None) -> None:
    """Refuse a quantisation that needs what is not installed."""
    if form is None:
        return
    try:
        FORMATS[form].check()
    except ModuleNotFoundError as error:
        raise ValueError(
            f"`quantization` {form} cannot be used: {error}; int8 needs nothing besides torch"
        ) from error


def quantize_like(network: nn.Module, other: nn.Module) -> None:
    """Quantise a network, where it is, as another one is, if it is."""
    form = quantization_of(other)
    if form is not None:
        quantize(network, form)


def quantization_of(network: nn.Module) -> Quantization | None:
    """How the matrices of a network's blocks are kept; None of one that is not quantised."""
    found = (each.form for each in network.modules() if isinstance(each, QuantizedLinear))
    return next(found, None)
