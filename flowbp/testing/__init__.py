"""Conformance checks and an independent gradient oracle, for this project's tests and others'.

Each check is a plain function that raises `AssertionError` with what is wrong:

    >>> from flowbp.core import Sparse
    >>> check_method(Sparse(active=3), draws=1)

Random inputs for Hypothesis are in `flowbp.testing.strategies`, which needs the extra
`flowbp[testing]`; nothing else here does.
"""

from __future__ import annotations

from flowbp.testing.backbone import check_backbone as check_backbone
from flowbp.testing.comparing import assert_close as assert_close
from flowbp.testing.comparing import assert_finite as assert_finite
from flowbp.testing.comparing import assert_gradients_close as assert_gradients_close
from flowbp.testing.comparing import assert_same_shape as assert_same_shape
from flowbp.testing.comparing import assert_within as assert_within
from flowbp.testing.comparing import relative_gap as relative_gap
from flowbp.testing.oracle import anchor_penalty as anchor_penalty
from flowbp.testing.oracle import joint_gradient as joint_gradient
from flowbp.testing.oracle import joint_read as joint_read
from flowbp.testing.parity import PipelineCall as PipelineCall
from flowbp.testing.parity import PipelineRequest as PipelineRequest
from flowbp.testing.parity import call_pipeline as call_pipeline
from flowbp.testing.parity import check_parity as check_parity
from flowbp.testing.plans import check_method as check_method
from flowbp.testing.plans import check_plan as check_plan
from flowbp.testing.problem import Problem as Problem
from flowbp.testing.problem import TanhField as TanhField
from flowbp.testing.problem import random_problem as random_problem
from flowbp.testing.problem import with_jacobian_scale as with_jacobian_scale
from flowbp.testing.random_models import RandomText as RandomText
from flowbp.testing.random_models import random_backbone as random_backbone
from flowbp.testing.reward import check_reward as check_reward
from flowbp.testing.streamed import assert_affine as assert_affine
from flowbp.testing.streamed import check_streamed as check_streamed
from flowbp.testing.velocity import check_gradients as check_gradients
from flowbp.testing.velocity import check_velocity_field as check_velocity_field
from flowbp.testing.velocity import parametric_velocity as parametric_velocity
from flowbp.testing.waits import host_waits as host_waits
