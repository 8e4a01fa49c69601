"""What the numbers of a column are: verdicts or figures, and whether more of them is better."""

from __future__ import annotations

import attrs


@attrs.frozen(kw_only=True)
class Scale:
    """What a metric says of a column, by an attribute `scales` with its columns' names as keys.

    Without it numbers are figures of which more is better.

    Args:
        sign: 1 where more is better, -1 where less is, and 0 where neither is: such a column has
            no gain, and is not tested for one.
        verdict: 1 is a picture that passes and 0 one that fails; means are written in percent.

    Raises:
        ValueError: another sign.

    Example:
        >>> Scale(sign=-1).verdict
        False
    """

    sign: int = attrs.field(default=1)
    verdict: bool = False

    @sign.validator
    def _known(self, _: attrs.Attribute[int], value: int) -> None:
        if value not in (-1, 0, 1):
            raise ValueError(
                f"`sign` must be 1 (more is better), -1 (less is better) or 0, got {value!r}"
            )
