"""Hypothesis strategies: grids, problems, methods with legal parameters, surrogates."""

from __future__ import annotations

try:
    import hypothesis as _hypothesis  # noqa: F401
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "`hypothesis` is needed for flowbp.testing.strategies and is not installed; "
        'run: pip install "flowbp[testing]"',
        name="hypothesis",
    ) from error

from flowbp.testing.strategies.grids import grids as grids
from flowbp.testing.strategies.methods import methods as methods
from flowbp.testing.strategies.methods import pairs as pairs
from flowbp.testing.strategies.methods import surrogate_methods as surrogate_methods
from flowbp.testing.strategies.methods import variants as variants
from flowbp.testing.strategies.problems import events as events
from flowbp.testing.strategies.problems import generators as generators
from flowbp.testing.strategies.problems import problems as problems
from flowbp.testing.strategies.surrogates import segments as segments
from flowbp.testing.strategies.surrogates import surrogates as surrogates
