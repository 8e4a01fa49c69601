"""What a report warns of before all else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from flowbp.evaluation.held_out_charts import figures_besides
from flowbp.evaluation.parting import parting
from flowbp.evaluation.report_tables import Line


def warnings_of(
    lines: Sequence[Line],
    held_out: Sequence[Mapping[str, Any]],
    trained: str | None,
    *,
    each: Sequence[Mapping[str, Sequence[float]]] = (),
    seed: int = 0,
) -> tuple[str, ...]:
    """Say where the trained-on reward rose while a held-out figure fell.

    Inside a run that is `parting`; between the base and another model it is a significant gain of
    the trained-on column beside a significant loss of another that has a better and a worse.

    Args:
        lines: comparisons with the base.
        held_out: evaluations inside the run.
        trained: the column that was trained on.
        each: of `held_out`, by figure, the numbers of every prompt.
        seed: of the tests behind the warnings.

    Returns:
        Sentences.

    Example:
        >>> rows = [{"step": 25 * i, "reward": i, "accuracy": a}
        ...         for i, a in enumerate((0.5, 0.8, 0.6, 0.5))]
        >>> each = [{name: [row[name]] * 20 for name in ("reward", "accuracy")} for row in rows]
        >>> warnings_of([], rows, "reward", each=each)[0][:53]
        'From step 50 on the reward rose while accuracy fell: '
    """
    if trained is None:
        return ()
    found = []
    names = figures_besides(held_out, "reward")
    for name in names:
        apart = parting(held_out, each, name, "reward", of=len(names), seed=seed) if each else None
        if apart is not None:
            found.append(
                f"From step {apart.since} on the reward rose while {name} fell: it was best at "
                f"step {apart.best}, beyond chance on {apart.prompts} prompts. What is gained "
                "since may be the reward's weakness, not better pictures."
            )
    risen = {line.model for line in lines if line.column == trained and line.worth == "good"}
    for line in lines:
        own = line.column == trained or line.column.startswith(f"{trained}.")
        if line.model in risen and line.worth == "bad" and not own:
            found.append(
                f"{line.model}: {trained}, which was trained on, is better, and {line.column} "
                f"is {line.verdict} by {line.unit.plain(abs(line.paired.change.gain.mean))}."
            )
    return tuple(found)
