"""The methods, guidances and portions that every claim about a step is tested on."""

from __future__ import annotations

from flowbp.core import (
    Bridge,
    DRaFT,
    DRaFTLV,
    DRTune,
    Lagrange,
    LeapAlign,
    ReFL,
    Sparse,
    Variant,
    adams_bashforth,
    uniform,
)
from flowbp.training import Batching, TrainingSampling

METHODS = {
    "ReFL": ReFL(last=4),
    "DRaFTLV": DRaFTLV(noised=2),
    "DRTune": DRTune(active=2, stop_ratio=0.5),
    "LeapAlign": LeapAlign(alpha=0.3, tau=0.01),
    "Sparse": Sparse(active=3, rescale=0.5),
    "Bridge": Bridge(active=4, alpha=0.7, rescale=1.0),
    "Lagrange": Lagrange(order=3, active=2, alpha=0.4, tau=0.01, rescale=0.5),
    "DRaFT": DRaFT(last=3),
    "exact": DRaFT(last=6),
    "ReFL on samples": Variant(ReFL(last=4), reward_input="sample"),
    "predicting Bridge": Variant(
        Bridge(active=4), reward_input="posterior_mean", quadrature=uniform
    ),
    "uniform Sparse": Variant(Sparse(active=3, rescale=0.5), quadrature=uniform),
    "extrapolating Lagrange": Variant(Lagrange(active=3, alpha=0.4), quadrature=adams_bashforth),
}
GUIDANCE = {
    "unguided": TrainingSampling(6, 1.0, 4, 4),
    "detached": TrainingSampling(6, 3.5, 4, 4, "mud"),
    "attached": TrainingSampling(6, 3.5, 4, 4, "mud", detach_negative=False),
    # Where the surrogate needs neither, steps 2 and 3 are extrapolated.
    "extrapolated": TrainingSampling(6, 3.5, 4, 4, velocity_every=3),
}
BATCHINGS = [
    Batching(5),
    Batching(5, pull=2, decode=3),
    Batching(1, 5),
    Batching(5, pull=1, decode=1),
    Batching(5, pull=99, decode=99),
]


def close(found: dict, expected: dict, tolerance: float = 1e-12) -> None:
    """Assert that gradients agree, relative to the largest entry of them all."""
    scale = max(gradient.abs().max().item() for gradient in expected.values())
    assert scale > 0
    for name, gradient in expected.items():
        assert (found[name] - gradient).abs().max().item() <= tolerance * scale, name
