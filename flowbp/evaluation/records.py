"""What an evaluation found: one record per prompt, and two evaluations side by side."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import attrs

from flowbp.evaluation.validators import all_finite, finite, not_empty


@attrs.frozen(kw_only=True)
class Record:
    """What one picture scored.

    Args:
        index: the prompt's place in the list, which fixes its noise.
        prompt: the text.
        kind: the group that the prompt is counted in.
        reward: the score of the reward that was trained on.
        passed: the judge's verdict; None when there was no judge.
        parts: what a composed reward tells of its parts, such as `likeness.raw`.

    Raises:
        ValueError: for a reward or part that is not finite.

    Example:
        >>> Record(index=0, prompt="a circle", kind="single_object", reward=0.3, passed=True).reward
        0.3
    """

    index: int
    prompt: str
    kind: str
    reward: float = attrs.field(converter=float, validator=finite)
    passed: bool | None = attrs.field(
        default=None, validator=attrs.validators.optional(attrs.validators.instance_of(bool))
    )
    parts: Mapping[str, float] = attrs.field(factory=dict, validator=all_finite)


def _tuple_of_records(records: Iterable[Record]) -> tuple[Record, ...]:
    return tuple(records)


@attrs.frozen(kw_only=True)
class Evaluation:
    """The records of one model on one list of prompts.

    Args:
        label: which model it was, such as "before" or "after".
        noise_seed: the seed of the starting noise.
        seconds: how long sampling and scoring took.
        records: one for every prompt, in the order of the list.

    Raises:
        ValueError: without records, when only some of them were judged, or when their rewards
            have different parts.

    Example:
        >>> record = Record(index=0, prompt="a circle", kind="single_object", reward=0.3)
        >>> Evaluation(label="before", noise_seed=0, seconds=1.5, records=[record]).judged
        False
    """

    label: str = attrs.field(validator=not_empty)
    noise_seed: int
    seconds: float = attrs.field(converter=float, validator=finite)
    records: tuple[Record, ...] = attrs.field(converter=_tuple_of_records, validator=not_empty)

    @records.validator
    def _judged_all_or_none(self, attribute: Any, records: tuple[Record, ...]) -> None:
        unjudged = [record for record in records if record.passed is None]
        if 0 < len(unjudged) < len(records):
            raise ValueError(
                f"`records` has {len(unjudged)} of {len(records)} prompts without a verdict, the "
                f"first being {unjudged[0].prompt!r}; judge all of them or none"
            )

    @records.validator
    def _of_the_same_parts(self, attribute: Any, records: tuple[Record, ...]) -> None:
        for record in records:
            if list(record.parts) != list(records[0].parts):
                raise ValueError(
                    f"`records` have rewards of the parts {list(records[0].parts)} at "
                    f"{records[0].prompt!r} and {list(record.parts)} at {record.prompt!r}; score "
                    "all of them with one reward"
                )

    @property
    def judged(self) -> bool:
        """Whether the records carry a judge's verdict."""
        return self.records[0].passed is not None

    @property
    def parts(self) -> tuple[str, ...]:
        """What the records tell of a composed reward's parts; none for another reward."""
        return tuple(self.records[0].parts)

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of prompt, each once, in order of first appearance."""
        return tuple(dict.fromkeys(record.kind for record in self.records))


@attrs.frozen
class Pair:
    """One prompt before and after training, from the same noise.

    Args:
        before: its record of the first evaluation.
        after: its record of the second.

    Example:
        >>> old = Record(index=0, prompt="a circle", kind="single_object", reward=0.25)
        >>> Pair(old, attrs.evolve(old, reward=0.5)).reward_gain
        0.25
    """

    before: Record
    after: Record

    @property
    def reward_gain(self) -> float:
        """Reward after minus reward before."""
        return self.after.reward - self.before.reward

    @property
    def verdict_gain(self) -> int:
        """1 for a prompt that newly passes, −1 for one that newly fails, else 0."""
        return int(bool(self.after.passed)) - int(bool(self.before.passed))


@attrs.frozen
class Comparison:
    """Two evaluations of the same prompts from the same noise.

    Args:
        before: the model as it was.
        after: the model after training.

    Raises:
        ValueError: when the two differ in prompts, kinds, noise, in having been judged or in the
            reward's parts, because a paired gain would then mean nothing.

    Example:
        >>> record = Record(index=0, prompt="a circle", kind="single_object", reward=0.25)
        >>> old = Evaluation(label="before", noise_seed=0, seconds=1, records=[record])
        >>> new = attrs.evolve(old, label="after", records=[attrs.evolve(record, reward=0.5)])
        >>> [pair.reward_gain for pair in Comparison(old, new).pairs]
        [0.25]
    """

    before: Evaluation
    after: Evaluation

    def __attrs_post_init__(self) -> None:
        for name in ("noise_seed", "judged", "parts"):
            old, new = getattr(self.before, name), getattr(self.after, name)
            if old != new:
                raise ValueError(
                    f"`{name}` is {old!r} before and {new!r} after; evaluate both models with one "
                    "seed, one judge and one reward"
                )
        _same(
            "prompts",
            (_identity(record) for record in self.before.records),
            (_identity(record) for record in self.after.records),
        )

    @property
    def pairs(self) -> tuple[Pair, ...]:
        """The records of the two evaluations, prompt by prompt."""
        return tuple(map(Pair, self.before.records, self.after.records))

    @property
    def judged(self) -> bool:
        """Whether the records carry a judge's verdict."""
        return self.before.judged


def _identity(record: Record) -> tuple[int, str, str]:
    return record.index, record.prompt, record.kind


def _same(name: str, before: Iterable[Any], after: Iterable[Any]) -> None:
    old, new = list(before), list(after)
    if len(old) != len(new):
        raise ValueError(
            f"`{name}` are {len(old)} before and {len(new)} after; evaluate both on one list"
        )
    for first, second in zip(old, new, strict=True):
        if first != second:
            raise ValueError(
                f"`{name}` differ: {first!r} before, {second!r} after; evaluate both on one list"
            )
