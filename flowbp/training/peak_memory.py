"""The stage of a training step that takes most of a device's memory, and what is there then."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import attrs

from flowbp.training.batching import Portions
from flowbp.training.division import Division, Needs, written_bytes
from flowbp.training.memory_stages import SAMPLING, SCORING, SUMMING, SWEEP, UPDATE, Stage

ACTIVATIONS = "activations"


@attrs.frozen(kw_only=True)
class Stages:
    """Bytes that each stage of a step takes besides what is divided, and what is always there.

    `cached` are the path and the prompts of the whole batch, which scoring and pulls leave in
    place; `parts` are decoder, reward and buffers; `others` judge and measure pictures.
    """

    portions: Portions
    parts: int
    cached: int
    sampling: int
    scoring: int
    pull: int
    update: int = 0
    others: int = 0


@attrs.frozen
class Peak:
    """The stage of a step that takes most on each device, and bytes there by what they are."""

    stage: Stage
    sizes: Mapping[str, int]
    portions: Portions
    # The type of the device, and what it has in all, if that is known.
    device: str
    memory: int | None = None
    # What is on the device and not in it, in words.
    without: Sequence[str] = ()

    @property
    def total(self) -> int:
        """All of it."""
        return sum(self.sizes.values())

    def described(self) -> str:
        """It in words."""
        parts = ", ".join(f"{written_bytes(n)} of {name}" for name, n in self.sizes.items() if n)
        return (
            f"about {written_bytes(self.total)} on {self.device} at the peak, in "
            f"{self.stage.doing} ({self.portions}): {parts}{self._left_out()}{self._excess()}"
        )

    def _left_out(self) -> str:
        if not self.without:
            return ""
        *others, last = self.without
        names = f"{', '.join(others)} and {last}" if others else last
        return f"; without {names}, whose {'sizes are' if others else 'size is'} not known"

    def _excess(self) -> str:
        """That it does not fit, and what helps: smaller portions only where they may suffice."""
        if self.memory is None or self.total <= self.memory:
            return ""
        fixed = self.total - self.sizes.get(ACTIVATIONS, 0)
        helps = UPDATE.cure if fixed > self.memory else self.stage.advice(self.portions)
        return f"; more than the {written_bytes(self.memory)} of this device: {helps}"


def peak_of(
    needs: Needs,
    division: Division,
    stages: Stages,
    *,
    device: str,
    memory: int | None = None,
    without: Sequence[str] = (),
) -> Peak:
    """The largest stage of a step, of a model that is divided so, on a type of device.

    Sampling and scoring come before there are gradients, which pulls and update need besides.
    """
    by_stage = {
        SAMPLING: {ACTIVATIONS: stages.sampling, **_states(needs, division, None)},
        SCORING: {ACTIVATIONS: stages.scoring, **_states(needs, division, None)},
        SWEEP: {ACTIVATIONS: stages.pull, **_states(needs, division, "summed")},
        UPDATE: {"temporary copies": stages.update, **_states(needs, division, "own")},
    }
    if division.shard > 1 and division.keep:
        # A block's gradients are laid out for all processes, joined, and summed.
        buffers = needs.largest + needs.largest // division.shard
        by_stage[SUMMING] = {"buffers": buffers, **_states(needs, division, "summed")}
    always = {
        "decoder, reward and buffers": stages.parts,
        "judge and metrics": stages.others,
        "path and prompts": stages.cached,
    }
    sizes = {stage: {**found, **always} for stage, found in by_stage.items()}
    largest = max(sizes, key=lambda stage: sum(sizes[stage].values()))
    return Peak(largest, sizes[largest], stages.portions, device, memory, without)


def _states(needs: Needs, division: Division, gradients: str | None) -> Mapping[str, int]:
    """What a model takes in a stage: without gradients, with all, or with its own share."""
    found = dict(division.bytes_of(needs))
    count = division.shard
    if count == 1:
        if gradients is None:
            found["gradients"] = 0
        return found
    if not division.keep:
        if gradients is None:
            found["shards"] -= needs.gradients // count
        return found
    if gradients == "own":
        # The whole is given back before the update.
        found["shards"] += needs.gradients // count
        found |= {"a step's weights": 0, "a step's gradients": 0}
    elif gradients is None:
        found["a step's gradients"] = 0
    return found
