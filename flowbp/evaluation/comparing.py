"""Every comparison with the base at once, so that chance is reckoned for all of them together."""

from __future__ import annotations

import attrs
import torch

from flowbp.evaluation.scores import Paired, Scores
from flowbp.evaluation.significance import LEAST, LEVEL, holm, sign_flip_p


@attrs.frozen(kw_only=True)
class Compared:
    """A column of a model beside the base's.

    Args:
        model: label of the model.
        column: the column, or a total.
        paired: the two on the pictures that both have.
        p: of a sign-flip test of this comparison alone; None where it is not tested.
        corrected: the same after Holm's correction for all comparisons that are tested.

    Example:
        See `compare`.
    """

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
    """Compare every model with the base in every column and total.

    Tested are those of at least `LEAST` different prompts, of every column if it is a total, in
    which more or less is better: the distance from the base is 0 for the base by definition, and
    no gain.

    Args:
        scores: of all models.
        seed: of bootstrap and test.

    Returns:
        The comparisons, column by column; one without a picture that both have is left out.

    Example:
        >>> from flowbp.evaluation.score_rows import ScoreRow
        >>> rows = [
        ...     ScoreRow(model=m, number=n, seed=0, prompt=f"{n}", kind="k",
        ...              values={"r": gain * n})
        ...     for m, gain in (("base", 0.0), ("mine", 1.0)) for n in range(12)]
        >>> [(each.column, each.p, each.significant) for each in compare(Scores(rows))]
        [('r', 0.0009765625, True)]
    """
    base, *others = scores.models
    found = [
        Compared(model=model, column=column, paired=paired)
        for column in scores.figures
        for model in others
        if (paired := scores.paired(base, model, column, seed=seed)) is not None
    ]
    tested = [
        place
        for place, each in enumerate(found)
        if each.paired.fewest >= LEAST and scores.scale(each.column).sign
    ]
    # Drawn flips give no p below one in their number, which the correction must leave below LEVEL.
    flips = max(9_999, round(2 * len(tested) / LEVEL))
    p = [_p(found[place], flips, seed) for place in tested]
    for place, own, corrected in zip(tested, p, holm(p), strict=True):
        found[place] = attrs.evolve(found[place], p=own, corrected=corrected)
    return tuple(found)


def _p(each: Compared, flips: int, seed: int) -> float:
    generator = torch.Generator().manual_seed(seed)
    paired = each.paired
    return sign_flip_p(paired.differences, prompts=paired.texts, generator=generator, flips=flips)
