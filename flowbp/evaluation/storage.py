"""A comparison as JSON, and back."""

from __future__ import annotations

import json
from typing import Any

import attrs
import cattrs
from cattrs.v import format_exception

from flowbp.evaluation.records import Comparison
from flowbp.evaluation.summary import summarise

FORMAT = 1


def to_json(comparison: Comparison, *, seed: int = 0) -> str:
    """Write a comparison as JSON with stable keys, its summary included for the reader.

    Args:
        comparison: the two evaluations.
        seed: seed of the bootstrap behind the summary's intervals.

    Returns:
        An object with the keys ``format``, ``summary``, ``before`` and ``after``.

    Example:
        >>> from flowbp.evaluation.records import Evaluation, Record
        >>> record = Record(index=0, prompt="a circle", kind="single_object", reward=0.25)
        >>> old = Evaluation(label="before", noise_seed=0, seconds=1, records=[record])
        >>> list(json.loads(to_json(Comparison(old, old))))
        ['format', 'summary', 'before', 'after']
    """
    tree = {
        "format": FORMAT,
        "summary": attrs.asdict(summarise(comparison, seed=seed)),
        **attrs.asdict(comparison),
    }
    return json.dumps(tree, ensure_ascii=False, indent=1, allow_nan=False)


def from_json(text: str) -> Comparison:
    """Read a comparison that `to_json` wrote; the summary is worked out anew when it is asked for.

    Args:
        text: the JSON.

    Returns:
        The comparison, equal to the one that was written.

    Raises:
        ValueError: for text that is no such JSON; the message lists what is wrong and where.

    Example:
        >>> from flowbp.evaluation.records import Evaluation, Record
        >>> record = Record(index=0, prompt="a circle", kind="single_object", reward=0.25)
        >>> old = Evaluation(label="before", noise_seed=0, seconds=1, records=[record])
        >>> from_json(to_json(Comparison(old, old))) == Comparison(old, old)
        True
    """
    try:
        tree = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"`text` is not JSON: {error}; give what to_json returned") from error
    if not isinstance(tree, dict) or tree.get("format") != FORMAT:
        found = tree.get("format") if isinstance(tree, dict) else type(tree).__name__
        raise ValueError(f"`text` must be an object of format {FORMAT}, got {found!r}")
    evaluations = {name: tree[name] for name in tree if name not in ("format", "summary")}
    return _structure(evaluations)


def _structure(tree: Any) -> Comparison:
    converter = cattrs.Converter(forbid_extra_keys=True)
    # cattrs would turn the text "no" into True; verdicts and the reward are taken as they stand
    # and left to the validators of Record.
    converter.register_structure_hook(bool, lambda value, _: value)
    try:
        return converter.structure(tree, Comparison)
    except cattrs.ClassValidationError as error:
        problems = "; ".join(
            cattrs.transform_error(error, path="comparison", format_exception=_said)
        )
        raise ValueError(f"`text` is no comparison: {problems}") from error


def _said(error: BaseException, type_: type | None) -> str:
    # Our own validators say what is wrong; cattrs would shorten that to "invalid value".
    return str(error) if type(error) is ValueError else format_exception(error, type_)
