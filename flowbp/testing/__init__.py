"""Conformance checks and an independent gradient oracle, for this project's tests and others'.

Each check is a plain function that raises `AssertionError` with what is wrong:

    >>> from flowbp.core import Sparse
    >>> check_method(Sparse(active=3), draws=1)

Random inputs for Hypothesis are in `flowbp.testing.strategies`, which needs the extra
`flowbp-align[testing]`; nothing else here does. Metrics, observers and optimizers are checked by
the code of a run, which needs the extra `flowbp-align[run]`.
"""

from __future__ import annotations

from .assertions import assert_close, assert_gradients_close
from .backbone import check_backbone
from .methods import assert_affine, check_method, check_streamed, check_surrogate
from .metric import check_metric
from .observer import check_observer
from .optimizer import check_optimizer
from .oracle import anchor_penalty, joint_gradient, joint_read
from .pipeline_parity import PipelineCall, PipelineRequest, call_pipeline, check_parity
from .problem import Problem, TanhField, random_problem, with_jacobian_scale
from .reward import check_reward
from .velocity import check_gradients, check_velocity_field, parametric_velocity

__all__ = [
    "PipelineCall",
    "PipelineRequest",
    "Problem",
    "TanhField",
    "anchor_penalty",
    "assert_affine",
    "assert_close",
    "assert_gradients_close",
    "call_pipeline",
    "check_backbone",
    "check_gradients",
    "check_method",
    "check_metric",
    "check_observer",
    "check_optimizer",
    "check_parity",
    "check_reward",
    "check_streamed",
    "check_surrogate",
    "check_velocity_field",
    "joint_gradient",
    "joint_read",
    "parametric_velocity",
    "random_problem",
    "with_jacobian_scale",
]
