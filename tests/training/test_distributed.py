"""A step of several processes is the step of one on the same batch."""

from __future__ import annotations

import pytest
import torch

from flowbp.training import Ranks

from . import distributed_jobs as jobs
from .cases import GUIDANCE, METHODS, close

# Samples, accumulation and portions of one process among two and four; and of one alone.
SPREAD = {
    2: [[[2, 2, {"pull": 1, "decode": 3}], [4, 2, {}]], [[3, 1, {}], [6, 1, {"pull": 2}]]],
    4: [[[1, 2, {"decode": 1}], [4, 2, {}]]],
}


def worst(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor]) -> float:
    """The largest difference of any parameter, relative to the largest entry of it."""
    return max(
        ((found[name] - value).abs().max() / value.abs().max()).item()
        for name, value in expected.items()
    )


@pytest.mark.parametrize("size", SPREAD)
@pytest.mark.parametrize("guidance", GUIDANCE)
def test_a_step_is_the_step_of_one_process(together, size: int, guidance: str) -> None:
    extras = [{}, {"anchor": 0.7}, {"clip": 0.6}, {"anchor": 0.3, "clip": 1.0}]
    spread, alone = [], []
    for method in METHODS:
        for parts, whole in SPREAD[size]:
            for extra in extras:
                spread.append([[method, guidance, parts], extra])
                alone.append([[method, guidance, whole], extra])
    expected = jobs.step(Ranks(), alone)
    for found in together.run(size, "step", cases=spread):
        for case, mine, (rewards, gradients, states) in zip(spread, found, expected, strict=True):
            torch.testing.assert_close(mine[0], rewards, rtol=1e-12, atol=0, msg=str(case))
            close(mine[1], gradients)
            # Whatever the part, the generators have moved as far.
            assert all(torch.equal(mine[2][name], state) for name, state in states.items())


@pytest.mark.parametrize(
    ("size", "method"), [*((2, each) for each in METHODS), (4, "LeapAlign"), (4, "Bridge")]
)
def test_training_is_that_of_one_process(together, size: int, method: str) -> None:
    for float32, tolerance in ((False, 1e-12), (True, 1e-5)):
        named = {"anchor": 0.1, "clip": 1.0, "float32": float32}
        parts, whole = SPREAD[size][0]
        _, rows, state, _ = jobs.train(Ranks(), method, "detached", whole, **named)
        found = together.run(
            size, "train", method=method, guidance="detached", batching=parts, **named
        )
        for _, mine, parameters, closed in found:
            assert worst(parameters, state) <= tolerance
            # The first alone is heard.
            assert closed == (1 if mine else 0)
        assert [len(mine) for _, mine, _, _ in found] == [3] + [0] * (size - 1)
        for mine, row in zip(found[0][1], rows, strict=True):
            for name, value in row.items():
                assert mine[name] == (value if value is None else pytest.approx(value, rel=1e-5))


@pytest.mark.parametrize("counts", [[5, 2], [2, 5], [4, 1, 1, 3]])
@pytest.mark.parametrize("method", ["Sparse", "LeapAlign", "Bridge", "DRaFT"])
def test_samples_are_clipped_at_the_median_of_all(together, method: str, counts: list[int]) -> None:
    expected = jobs.clipped_sweep(Ranks(), method, [sum(counts)])
    named = {"method": method, "counts": counts}
    for found in together.run(len(counts), "clipped_sweep", **named):
        assert (found - expected).abs().max() <= 1e-12 * expected.abs().max()
    # The median of each part alone gives another gradient.
    for found in together.run(len(counts), "clipped_sweep", **named, local=True):
        assert (found - expected).abs().max() > 1e-3 * expected.abs().max()
