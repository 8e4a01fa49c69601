"""A plan as text: one character a step."""

from __future__ import annotations

from flowbp.core import Plan
from flowbp.digits import written

LEGEND = "● active  ◆ active joint  · cached  - leapt over  | ends of segments"
"""What the characters of `drawn` mean."""

_MOST = 8


def drawn(plan: Plan, steps: int) -> str:
    """Draw which steps a plan evaluates again, on a line of `steps` steps from noise to sample.

    Args:
        plan: a surrogate or chain.
        steps: N.

    Returns:
        The line; steps that the plan has no part in are blank.

    Example:
        >>> from flowbp.core import Segment, Surrogate
        >>> early = Segment(1, 3, weights={1: -0.25, 2: -0.25}, active={2: 1.0})
        >>> late = Segment(3, 5, weights={3: -0.5}, active={3: 1.0})
        >>> drawn(Surrogate((early, late), alpha=0.5), 6)
        ' |·●|◆-| '
    """
    ends = {plan.segments[0].start, *(segment.stop for segment in plan.segments)}
    marks = [("|" if i in ends else "") + _mark(plan, i) for i in range(steps)]
    return "".join(marks) + ("|" if steps in ends else "")


def weighted(plan: Plan) -> str:
    """The active steps of a plan, each with its weight and the scale of its gradient.

    Args:
        plan: a surrogate or chain.

    Returns:
        Such as ``2: −0.2500, 3: −0.5000 x 0.250``; of many steps the first ones.

    Example:
        >>> from flowbp.core import Segment, Surrogate
        >>> weighted(Surrogate((Segment(0, 2, {0: -0.5, 1: -0.5}, {0: 1.0, 1: 0.25}),)))
        '0: −0.5000, 1: −0.5000 x 0.250'
    """
    items = [
        f"{step}: {written(segment.weights[step], 4)}{_scaled(scale)}"
        for segment in plan.segments
        for step, scale in sorted(segment.active.items())
    ]
    rest = len(items) - _MOST
    return ", ".join(items[:_MOST]) + (f" and {rest} more" if rest > 0 else "")


def _scaled(scale: float) -> str:
    return f" x {written(scale)}" if scale != 1 else ""


def joined(plan: Plan) -> str:
    """What crosses the joint of a plan, in words.

    Args:
        plan: a surrogate or chain.

    Returns:
        Such as ``joint at step 4, alpha 0.5``.

    Example:
        >>> from flowbp.core import Segment, Surrogate
        >>> joined(Surrogate((Segment(0, 1, {0: -1.0}, {0: 1.0}),)))
        'no joint, no Jacobian'
    """
    joints = [segment.start for segment in plan.segments[1:]]
    if not joints:
        return "no joint, no Jacobian"
    where = f"step {joints[0]}" if len(joints) == 1 else f"steps {joints[0]} to {joints[-1]}"
    return f"joint at {where}, alpha {plan.alpha:g}"


def reading(plan: Plan) -> str:
    """What the reward reads of a plan, in words.

    Args:
        plan: a surrogate or chain.

    Returns:
        Such as ``the sample``, or the step that it is predicted from.

    Example:
        >>> from flowbp.core import Segment, Surrogate
        >>> leap = Segment(3, 5, weights={3: -0.5}, active={3: 1.0})
        >>> reading(Surrogate((leap,), reward_input="posterior_mean"))
        'the sample as predicted at step 3 from the velocity of step 3'
    """
    if plan.reward_input == "sample":
        copies = f", and {plan.noised} renoised copies of it" if plan.noised else ""
        return f"the sample{copies}"
    last = plan.segments[-1]
    supports = sorted(last.weights)
    which = f"step {supports[0]}"
    if len(supports) > 1:
        rest = f" and {len(supports) - _MOST} more" if len(supports) > _MOST else ""
        which = f"steps {', '.join(map(str, supports[:_MOST]))}{rest}"
    velocity = "velocity" if len(supports) == 1 else "velocities"
    return f"the sample as predicted at step {last.start} from the {velocity} of {which}"


def _mark(plan: Plan, step: int) -> str:
    if any(step in segment.active for segment in plan.segments):
        joint = any(step == each.start and step in each.active for each in plan.segments[1:])
        return "◆" if joint else "●"
    if any(step in segment.weights for segment in plan.segments):
        return "·"
    return "-" if any(each.start <= step < each.stop for each in plan.segments) else " "
