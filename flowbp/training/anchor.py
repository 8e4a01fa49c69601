"""Against reward hacking: the model is held near what it was before training."""

from __future__ import annotations

import attrs

from flowbp.adapters.reference import Reference
from flowbp.core._validators import real


@attrs.frozen(eq=False)
class Anchor:
    """Adds `P = strength · mean (v - sg v_ref)²` to the loss, at each step's active steps.

    The mean is over the samples, all elements of their latents and the active steps. v is the
    velocity that is sampled with, guided if the sampler is, and v_ref is likewise. P is no part of
    `StepResult.loss`; its gradient is part of the same backward pass, which evaluates no velocity
    more with gradient, and one more without for each active step.

    Args:
        strength: the larger, the nearer the model stays; where it matters depends on the reward.
        reference: gives v_ref; `backbone.reference()`, asked before training.

    Raises:
        ValueError: the strength is not a finite number above 0.

    Example:
        >>> Anchor(0.01, lambda conditioning: lambda latents, sigma: -latents).strength
        0.01

    Reference: see `flowbp.core.anchor_term`.
    """

    strength: float = attrs.field(validator=real(0, above=True))
    reference: Reference
