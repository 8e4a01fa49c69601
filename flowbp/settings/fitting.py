"""Whether what a metric needs of an evaluation is there: found without building the metric."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

from flowbp.configuration import Component
from flowbp.evaluation import HeldOut
from flowbp.settings.needs import told


def unfit(component: Component[Any], prompts: Sequence[HeldOut], seeds: Sequence[int]) -> str:
    """What of an evaluation a metric could do nothing with.

    A class or function that a configuration can name may tell by an attribute `unfit`: a callable
    that takes some of its arguments by their names, `prompts` and `seeds`, and gives what is wrong,
    or nothing.

    Args:
        component: of a metric.
        prompts: of the evaluation.
        seeds: of its noise.

    Returns:
        What is wrong and what to do; empty if nothing is.

    Example:
        >>> from flowbp.evaluation import HeldOutPrompt
        >>> from flowbp.settings.set_metrics import diversity_metric
        >>> unfit(Component("diversity", diversity_metric), [HeldOutPrompt("a circle")], [0])
        'needs several pictures of a prompt, and there is one of each; give evaluation.seeds more \
than one number'
    """
    find = getattr(component.target, "unfit", None)
    if not callable(find):
        return ""
    given = component.completed | {"prompts": prompts, "seeds": seeds}
    # A check is code of others too, and whatever it raises is what is wrong.
    try:
        return find(**{name: given[name] for name in inspect.signature(find).parameters}) or ""
    except Exception as error:
        return told(error)
