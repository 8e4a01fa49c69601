"""What a run says when it has to stop at a number that is not finite."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from flowbp.training.result import StepResult

_CAUSES = {
    "latents": (
        "sampling itself overflowed: the weights have run away (lower the learning rate, clip "
        "harder), `guidance` is too large, or the network computes in a dtype of too small a range"
    ),
    "rewards": (
        "the latents are finite, so the decoder or the reward made it: it divides by, or takes the "
        "logarithm of, something that can be 0, or computes in a dtype of too small a range"
    ),
    "loss": (
        "the rewards are finite, so the loss shape or the weight of the samples made it: a reward "
        "far outside the range that the shape is meant for, or a residual floor `tau` near 0"
    ),
    "cotangent": (
        "the loss is finite but its derivative is not: the reward or the decoder has a square "
        "root, norm, logarithm or division whose derivative is infinite at these pictures; "
        "add an eps there, or compute it in float32"
    ),
    "anchor": (
        "latents and reward are finite, so the reference made it, or the distance to it overflowed:"
        " the model has left it far behind (raise `anchor.strength`, lower the learning rate), or "
        "the reference computes in a dtype of too small a range"
    ),
    "gradients": (
        "reward and cotangent are finite, so the backward pass of the network overflowed: lower "
        "`alpha` or the number of Jacobians kept, lower the learning rate, or compute in "
        "bfloat16 or float32"
    ),
    "parameters": (
        "the gradients are finite, so the update made them: the learning rate is far too large, "
        "or the dtype of the weights has too small a range"
    ),
}


class NonFiniteError(ArithmeticError):
    """A training step met a number that is not finite.

    No parameter was changed by that step, unless it is the parameters that are not finite.

    Args:
        step: number of the optimizer step, from 1.
        quantity: what was not finite, one of `QUANTITIES`, or `parameters`.
        detail: which samples or parameters.
        saved: what was saved, and where.

    Example:
        >>> print(NonFiniteError(3, "loss", "the loss is nan", "nothing was saved"))
        step 3 was stopped before the optimizer: the loss is nan. Likely cause: the rewards are \
finite, so the loss shape or the weight of the samples made it: a reward far outside the range \
that the shape is meant for, or a residual floor `tau` near 0. No parameter was changed by this \
step; nothing was saved.
    """

    def __init__(self, step: int, quantity: str, detail: str, saved: str) -> None:
        self.step = step
        self.quantity = quantity
        self.detail = detail
        self.saved = saved
        updated = quantity == "parameters"
        super().__init__(
            f"step {step} was stopped {'after' if updated else 'before'} the optimizer: {detail}. "
            f"Likely cause: {_CAUSES[quantity]}. "
            f"{'' if updated else 'No parameter was changed by this step; '}{saved}."
        )


def describe(quantity: str, result: StepResult, gradients: dict[str, Tensor]) -> str:
    """Which samples or parameters are not finite.

    Args:
        quantity: one of `QUANTITIES`.
        result: the step's.
        gradients: by parameter name.

    Returns:
        A clause for an error message, with the prompts concerned.

    Example:
        See `NonFiniteError`.
    """
    if quantity == "gradients":
        names = [name for name, gradient in gradients.items() if not _finite(gradient)]
        where = _some([f"`{name}`" for name in names]) if names else "none alone, only their norm"
        return f"{len(names)} of {len(gradients)} gradients are not finite ({where})"
    if quantity == "anchor":
        return "the distance to the reference is not finite"
    scores = result.scores
    by_sample = {
        "latents": result.latents,
        "rewards": scores.rewards,
        "loss": scores.losses,
        "cotangent": scores.cotangent,
    }[quantity]
    bad = [i for i, row in enumerate(by_sample) if not _finite(row)]
    prompts = list(dict.fromkeys(repr(result.prompts[i]) for i in bad))
    values = ""
    if quantity in ("rewards", "loss"):
        values = f", with the values {_some([f'{float(by_sample[i])}' for i in bad])}"
    if quantity == "rewards":
        values += _blamed_parts(scores.parts, bad)
    return (
        f"the {quantity} of {len(bad)} of {len(by_sample)} samples "
        f"{'is' if quantity in ('loss', 'cotangent') else 'are'} not finite{values}, "
        f"at the prompts {_some(prompts)}"
    )


def _blamed_parts(parts: Mapping[str, Tensor], bad: list[int]) -> str:
    if not parts:
        return ""
    broken = {
        name: dict.fromkeys(f"{float(figures[i])}" for i in bad if not _finite(figures[i]))
        for name, figures in parts.items()
    }
    named = [f"`{name}` {_some(list(values))}" for name, values in broken.items() if values]
    if not named:
        return ", which their sum makes while every part is finite"
    return f", not finite among its parts: {_some(named)}"


def describe_parameters(parameters: Mapping[str, Tensor]) -> str | None:
    """Which parameters are not finite, or too large to have a norm.

    Args:
        parameters: by name.

    Returns:
        A clause for an error message, or None if all of them together have a finite norm.

    Example:
        >>> describe_parameters({"weight": torch.ones(2), "bias": torch.tensor([torch.inf])})
        '1 of 2 parameters are not finite (`bias`)'
        >>> describe_parameters({"weight": torch.ones(2)}) is None
        True
    """
    if _finite(nn.utils.get_total_norm(parameters.values())):
        return None
    names = [name for name, parameter in parameters.items() if not _finite(parameter)]
    if not names:
        return "the parameters are so large that their norm is not finite"
    listed = _some([f"`{name}`" for name in names])
    return f"{len(names)} of {len(parameters)} parameters are not finite ({listed})"


def _finite(value: Tensor) -> bool:
    return bool(torch.isfinite(value).all())


def _some(items: list[str], most: int = 4) -> str:
    rest = len(items) - most
    return ", ".join(items[:most]) + (f" and {rest} more" if rest > 0 else "")
