"""Align text-to-image flow-matching models by back-propagating a reward through the sampler."""

from __future__ import annotations

from importlib import import_module

# What type checkers take for true; `typing` itself would cost milliseconds.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from .core import ActiveDraw as ActiveDraw
    from .core import AnchorTerm as AnchorTerm
    from .core import Bridge as Bridge
    from .core import Chain as Chain
    from .core import DirichletPair as DirichletPair
    from .core import DRaFT as DRaFT
    from .core import DRaFTLV as DRaFTLV
    from .core import DRTune as DRTune
    from .core import EveryStep as EveryStep
    from .core import FirstSteps as FirstSteps
    from .core import FurtherCotangent as FurtherCotangent
    from .core import Hinge as Hinge
    from .core import Lagrange as Lagrange
    from .core import LateBiased as LateBiased
    from .core import LeapAlign as LeapAlign
    from .core import Linear as Linear
    from .core import LossShape as LossShape
    from .core import Method as Method
    from .core import MidpointJPair as MidpointJPair
    from .core import MidpointPair as MidpointPair
    from .core import PairDraw as PairDraw
    from .core import ParametricVelocity as ParametricVelocity
    from .core import Plan as Plan
    from .core import Pull as Pull
    from .core import Pulled as Pulled
    from .core import Quadrature as Quadrature
    from .core import ReFL as ReFL
    from .core import RewardInput as RewardInput
    from .core import Segment as Segment
    from .core import Sparse as Sparse
    from .core import Surrogate as Surrogate
    from .core import Target as Target
    from .core import Trajectory as Trajectory
    from .core import UniformPair as UniformPair
    from .core import Variant as Variant
    from .core import VelocityField as VelocityField
    from .core import adams_bashforth as adams_bashforth
    from .core import anchor_term as anchor_term
    from .core import euler as euler
    from .core import evenly_spaced as evenly_spaced
    from .core import exact_vjp as exact_vjp
    from .core import functional_pull as functional_pull
    from .core import guided_pull as guided_pull
    from .core import guided_velocity as guided_velocity
    from .core import guided_velocity_in_one_call as guided_velocity_in_one_call
    from .core import in_micro_batches as in_micro_batches
    from .core import lagrange as lagrange
    from .core import late_biased as late_biased
    from .core import loss_weights as loss_weights
    from .core import module_pull as module_pull
    from .core import multistep as multistep
    from .core import read as read
    from .core import renoise as renoise
    from .core import residuals as residuals
    from .core import rollout as rollout
    from .core import surrogate_vjp as surrogate_vjp
    from .core import sweep as sweep
    from .core import uniform as uniform


def __getattr__(name: str) -> object:
    # Late, because torch takes seconds, in which a command must already mind Ctrl-C.
    if name.startswith("_"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found: object = getattr(import_module("flowbp.core"), name)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    core = import_module("flowbp.core")
    return sorted({*globals(), *(name for name in vars(core) if not name.startswith("_"))})
