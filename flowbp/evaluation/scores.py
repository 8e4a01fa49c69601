"""What several models scored on the same prompts and noise, and paired comparisons of them."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import attrs
import torch

from flowbp.evaluation.metric import Scale, as_tuple
from flowbp.evaluation.statistics import (
    LEAST,
    LEVEL,
    Change,
    Gain,
    holm,
    sign_flip_p,
    stratified_gain,
)
from flowbp.validators import not_empty


def _not_infinite(_: Any, attribute: attrs.Attribute[Any], value: Mapping[str, float]) -> None:
    for column, number in value.items():
        if math.isinf(number):
            raise ValueError(
                f"`{attribute.name}` must hold numbers, or NaN where a column says nothing, got "
                f"{number} for {column!r}"
            )


@attrs.frozen(kw_only=True)
class ScoreRow:
    """What one picture scored."""

    model: str = attrs.field(validator=not_empty)
    number: int
    seed: int
    prompt: str
    kind: str = attrs.field(validator=not_empty)
    values: Mapping[str, float] = attrs.field(factory=dict, validator=_not_infinite)


@attrs.frozen(kw_only=True)
class MetricFailure:
    """A metric that could not judge something, in an evaluation that reports failures."""

    metric: str
    message: str
    model: str | None = None
    prompt: str | None = None
    seed: int | None = None


@attrs.frozen
class Paired:
    """One column of two models, on the pictures that it judges of both."""

    change: Change
    differences: tuple[tuple[float, ...], ...] = attrs.field(repr=False)
    texts: tuple[tuple[str, ...], ...] = attrs.field(repr=False)
    pictures: int

    @property
    def prompts(self) -> int:
        """How many different ones took part."""
        return sum(len(set(texts)) for texts in self.texts)

    @property
    def fewest(self) -> int:
        """How many different ones took part in the column of a total that has fewest."""
        return min(len(set(texts)) for texts in self.texts)


@attrs.frozen
class Scores:
    """The scores of every picture, and which metrics failed; the first model is the base."""

    rows: tuple[ScoreRow, ...] = attrs.field(converter=as_tuple, validator=not_empty)
    failures: tuple[MetricFailure, ...] = attrs.field(default=(), converter=as_tuple)
    totals: Mapping[str, tuple[str, ...]] = attrs.field(factory=dict)
    scales: Mapping[str, Scale] = attrs.field(factory=dict)
    # Once: a report asks for them thousands of times.
    models: tuple[str, ...] = attrs.field(init=False, eq=False, repr=False)
    columns: tuple[str, ...] = attrs.field(init=False, eq=False, repr=False)
    _texts: Mapping[int, str] = attrs.field(init=False, eq=False, repr=False)
    # The columns with other numbers than 1 and 0.
    _graded: frozenset[str] = attrs.field(init=False, eq=False, repr=False)

    @totals.validator
    def _of_columns(self, _: Any, totals: Mapping[str, tuple[str, ...]]) -> None:
        for name, columns in totals.items():
            if name in self.columns or not columns:
                raise ValueError(
                    f"`totals` must give columns for a name that is none of them, got {name!r} of "
                    f"{', '.join(columns) or 'none'}; give it another name"
                )

    @rows.validator
    def _once(self, _: attrs.Attribute[Any], rows: tuple[ScoreRow, ...]) -> None:
        seen = set()
        for row in rows:
            key = (row.model, row.number, row.seed)
            if key in seen:
                raise ValueError(
                    f"`rows` has the picture of {row.prompt!r}, seed {row.seed}, twice for the "
                    f"model {row.model!r}; keep one of them"
                )
            seen.add(key)

    @models.default
    def _models(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(row.model for row in self.rows))

    @columns.default
    def _columns(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys(column for row in self.rows for column in row.values))

    @_graded.default
    def _with_other_numbers(self) -> frozenset[str]:
        return frozenset(
            column
            for row in self.rows
            for column, value in row.values.items()
            if value not in (0.0, 1.0) and not math.isnan(value)
        )

    @_texts.default
    def _by_number(self) -> Mapping[int, str]:
        return {row.number: row.prompt for row in self.rows}

    @property
    def prompts(self) -> int:
        """How many different ones there are."""
        return len({row.prompt for row in self.rows})

    @property
    def columns_and_totals(self) -> tuple[str, ...]:
        """The columns, and each total after the last of its own."""
        found = list(self.columns)
        for name, columns in self.totals.items():
            if all(column in found for column in columns):
                found.insert(max(map(found.index, columns)) + 1, name)
        return tuple(found)

    @property
    def kinds(self) -> tuple[str, ...]:
        """The kinds of prompt, each once, in order of first appearance."""
        return tuple(dict.fromkeys(row.kind for row in self.rows))

    def scale(self, column: str) -> Scale:
        """What the numbers of a column are; of a total, those of its first column."""
        known = (name for name in (column, *self.parts(column)) if name in self.scales)
        scale = next((self.scales[name] for name in known), Scale())
        if scale.verdict and not self._graded.isdisjoint(self.parts(column)):
            return attrs.evolve(scale, verdict=False)
        return scale

    def of_kind(self, kind: str) -> Scores:
        """The scores of one kind of prompt."""
        return attrs.evolve(self, rows=[row for row in self.rows if row.kind == kind])

    def mean(self, model: str, column: str, *, seed: int = 0) -> Gain | None:
        """The mean of a model's column with the interval of a bootstrap over prompts."""
        parts = [_by_place(self._values(model, part)) for part in self.parts(column)]
        return self._estimate(parts, seed) if all(parts) else None

    def counts(self, model: str, column: str) -> tuple[int, int]:
        """How many prompts and pictures a column judges of a model."""
        found = [self._values(model, part) for part in self.parts(column)]
        if not all(found):
            return 0, 0
        prompts = sum(len({self._texts[number] for number, _ in values}) for values in found)
        return prompts, sum(map(len, found))

    def paired(self, base: str, other: str, column: str, *, seed: int = 0) -> Paired | None:
        """Compare two models picture by picture: same prompt, same noise."""
        # Differences are averaged over the seeds of a place first, and prompts are drawn with all
        # their places: pictures of one prompt resemble each other, and are no evidence each.
        before, after, differences, pictures = [], [], [], 0
        for part in self.parts(column):
            old, new = self._values(base, part), self._values(other, part)
            both = [key for key in old if key in new]
            if not both:
                return None
            pictures += len(both)
            first, second = (_by_place({key: each[key] for key in both}) for each in (old, new))
            before.append(_mean(first.values()))
            after.append(_mean(second.values()))
            differences.append({number: second[number] - first[number] for number in first})
        gain = self._estimate(differences, seed)
        groups = tuple(tuple(group.values()) for group in differences)
        texts = self._prompts(differences)
        return Paired(Change(_mean(before), _mean(after), gain), groups, texts, pictures)

    def parts(self, column: str) -> tuple[str, ...]:
        """The columns of a total, or the column itself."""
        return self.totals.get(column, (column,))

    def _values(self, model: str, column: str) -> dict[tuple[int, int], float]:
        found = {(r.number, r.seed): r.values.get(column) for r in self.rows if r.model == model}
        return {key: v for key, v in found.items() if v is not None and not math.isnan(v)}

    def _prompts(self, groups: Sequence[Mapping[int, float]]) -> tuple[tuple[str, ...], ...]:
        return tuple(tuple(self._texts[number] for number in group) for group in groups)

    def _estimate(self, groups: Sequence[Mapping[int, float]], seed: int) -> Gain:
        return stratified_gain(
            [list(group.values()) for group in groups],
            prompts=self._prompts(groups),
            generator=torch.Generator().manual_seed(seed),
        )


def _by_place(values: Mapping[tuple[int, int], float]) -> dict[int, float]:
    found: dict[int, list[float]] = {}
    for (number, _), value in values.items():
        found.setdefault(number, []).append(value)
    return {number: _mean(numbers) for number, numbers in found.items()}


def _mean(values: Collection[float]) -> float:
    return math.fsum(values) / len(values)


@attrs.frozen(kw_only=True)
class Compared:
    """A column of a model beside the base's."""

    model: str
    column: str
    paired: Paired
    p: float | None = None
    corrected: float | None = None

    @property
    def significant(self) -> bool:
        """Whether the corrected p is at most `LEVEL`."""
        return self.corrected is not None and self.corrected <= LEVEL


def compare(scores: Scores, *, seed: int = 0) -> tuple[Compared, ...]:
    """Compare every model with the base in every column and total."""
    base, *others = scores.models
    found = [
        Compared(model=model, column=column, paired=paired)
        for column in scores.columns_and_totals
        for model in others
        if (paired := scores.paired(base, model, column, seed=seed)) is not None
    ]
    # Of few prompts nothing is, nor where neither more nor less is better: the distance from the
    # base is 0 for the base by definition.
    tested = [
        place
        for place, each in enumerate(found)
        if each.paired.fewest >= LEAST and scores.scale(each.column).sign
    ]
    # Drawn flips give no p below one in their number, which the correction must leave below LEVEL.
    flips = max(9_999, round(2 * len(tested) / LEVEL))
    p = []
    for place in tested:
        generator, own = torch.Generator().manual_seed(seed), found[place].paired
        p.append(sign_flip_p(own.differences, prompts=own.texts, generator=generator, flips=flips))
    for place, own_p, corrected in zip(tested, p, holm(p), strict=True):
        found[place] = attrs.evolve(found[place], p=own_p, corrected=corrected)
    return tuple(found)
