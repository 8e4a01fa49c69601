"""Against reward hacking: the model is held near a reference."""

from __future__ import annotations

import attrs

from flowbp.adapters.reference import Reference
from flowbp.core._validators import real


@attrs.frozen(eq=False)
class Anchor:
    """Adds `P = strength · mean (v(sg x_i) - v_ref(sg x_i))²` to the loss, at the active steps i.

    The mean is over all members, renoised copies included, all elements of their latents and the
    active steps. v is the velocity that is sampled with, guided if the sampler is, and v_ref is
    likewise. The latents are held fixed: P reaches the parameters through each velocity alone. It
    is no part of `StepResult.loss`; its gradient is part of the same backward pass, which evaluates
    no velocity more with gradient, and one more without for each active step, two under guidance.
    Where the reward's gradient passes on through a velocity's latents, at a bridged joint and in
    `DRaFT` at every step but the first kept, there is one more backward pass over its graph.

    Args:
        strength: the larger, the nearer the model stays; where it matters depends on the reward.
        reference: gives v_ref; `backbone.reference()`, asked before training. Under LoRA that is
            the base model without any adapter, also where training went on from an existing one,
            so that P is not zero at the start then; otherwise the model before training.

    Raises:
        ValueError: the strength is not a finite number above 0.

    Example:
        >>> Anchor(0.01, lambda conditioning: lambda latents, sigma: -latents).strength
        0.01

    Reference: see `flowbp.core.anchor_term`.
    """

    strength: float = attrs.field(validator=real(0, above=True))
    reference: Reference
