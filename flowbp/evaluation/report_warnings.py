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
    trained: Mapping[str, Sequence[str]],
    *,
    each: Sequence[Mapping[str, Sequence[float]]] = (),
    prompts: Sequence[str] | None = None,
    signs: Mapping[str, int] | None = None,
    seed: int = 0,
) -> tuple[str, ...]:
    """Say where the trained-on reward rose while a held-out figure got worse.

    Inside a run that is `parting`; between the base and another model it is a significant gain of
    a column that this model was trained on beside a significant loss of another that has a better
    and a worse.

    Args:
        lines: comparisons with the base.
        held_out: evaluations inside the run.
        trained: by model the columns that it was trained on.
        each: of `held_out`, by figure, the numbers of every prompt.
        prompts: of these numbers; None if all differ.
        signs: of `held_out`, by figure: -1 where less is better, 0 where neither is; else more is.
        seed: of the tests behind the warnings.

    Returns:
        Sentences.

    Example:
        >>> rows = [{"step": 25 * i, "reward": i, "accuracy": a}
        ...         for i, a in enumerate((0.5, 0.8, 0.6, 0.5))]
        >>> each = [{name: [row[name]] * 20 for name in ("reward", "accuracy")} for row in rows]
        >>> warnings_of([], rows, {"after": ["reward"]}, each=each)[0][:53]
        'From step 50 on the reward rose while accuracy fell: '
    """
    if not trained:
        return ()
    found = _parted(held_out, each, prompts, signs or {}, seed) if each else []
    better = {(line.model, line.column) for line in lines if line.worth == "good"}
    for line in lines:
        own = trained.get(line.model, ())
        risen = [name for name in own if (line.model, name) in better]
        if risen and line.worth == "bad" and not _of(own, line.column):
            found.append(
                f"{line.model}: {risen[0]}, which was trained on, is better, and {line.column} "
                f"is {line.verdict} by {line.written.gain.lstrip('+−')}"
                f"{' points' if line.unit.percent else ''}."
            )
    return tuple(found)


def _parted(
    held_out: Sequence[Mapping[str, Any]],
    each: Sequence[Mapping[str, Sequence[float]]],
    prompts: Sequence[str] | None,
    signs: Mapping[str, int],
    seed: int,
) -> list[str]:
    found = []
    names = [name for name in figures_besides(held_out, "reward") if signs.get(name) != 0]
    for name in names:
        sign = signs.get(name, 1)
        apart = parting(
            held_out,
            each,
            name,
            "reward",
            prompts=prompts,
            of=len(names),
            sign=sign,
            seed=seed,
        )
        if apart is not None:
            worse = "fell" if sign == 1 else "rose too, of which less is better"
            found.append(
                f"From step {apart.since} on the reward rose while {name} {worse}: it was best at "
                f"step {apart.best}, beyond chance on {apart.prompts} prompts. What is gained "
                "since may be the reward's weakness, not better pictures."
            )
    return found


def _of(columns: Sequence[str], name: str) -> bool:
    return any(name == column or name.startswith(f"{column}.") for column in columns)
