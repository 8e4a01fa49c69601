"""Surrogate trajectories and their gradients: values and pure functions on torch alone."""

from .anchor import (
    AnchorTerm,
    anchor_term,
)
from .draws import (
    ActiveDraw,
    DirichletPair,
    EveryStep,
    FirstSteps,
    LateBiased,
    MidpointJPair,
    MidpointPair,
    PairDraw,
    UniformPair,
    late_biased,
)
from .guidance import (
    batched_guided_velocity,
    guided_pull,
    guided_velocity,
)
from .losses import (
    Hinge,
    Linear,
    LossShape,
    Target,
)
from .methods import (
    Bridge,
    DRaFT,
    DRaFTLV,
    DRTune,
    Lagrange,
    LeapAlign,
    Method,
    ReFL,
    Sparse,
    Variant,
)
from .pulls import (
    Cotangents,
    ParametricVelocity,
    Pull,
    Pulled,
    functional_pull,
    in_micro_batches,
    module_pull,
)
from .quadrature import (
    Quadrature,
    adams_bashforth,
    euler,
    evenly_spaced,
    lagrange,
    multistep,
    uniform,
)
from .reading import (
    loss_weights,
    read,
    renoise,
    residuals,
)
from .segments import (
    RewardInput,
    Segment,
    Surrogate,
)
from .sweep import (
    exact_vjp,
    surrogate_vjp,
    sweep,
)
from .trajectory import (
    Trajectory,
    VelocityField,
    rollout,
)

__all__ = [
    "ActiveDraw",
    "AnchorTerm",
    "Bridge",
    "Cotangents",
    "DRTune",
    "DRaFT",
    "DRaFTLV",
    "DirichletPair",
    "EveryStep",
    "FirstSteps",
    "Hinge",
    "Lagrange",
    "LateBiased",
    "LeapAlign",
    "Linear",
    "LossShape",
    "Method",
    "MidpointJPair",
    "MidpointPair",
    "PairDraw",
    "ParametricVelocity",
    "Pull",
    "Pulled",
    "Quadrature",
    "ReFL",
    "RewardInput",
    "Segment",
    "Sparse",
    "Surrogate",
    "Target",
    "Trajectory",
    "UniformPair",
    "Variant",
    "VelocityField",
    "adams_bashforth",
    "anchor_term",
    "batched_guided_velocity",
    "euler",
    "evenly_spaced",
    "exact_vjp",
    "functional_pull",
    "guided_pull",
    "guided_velocity",
    "in_micro_batches",
    "lagrange",
    "late_biased",
    "loss_weights",
    "module_pull",
    "multistep",
    "read",
    "renoise",
    "residuals",
    "rollout",
    "surrogate_vjp",
    "sweep",
    "uniform",
]
