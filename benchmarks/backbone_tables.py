"""What the benchmark of the model families found, as JSON and as Markdown."""

from __future__ import annotations

import json
from pathlib import Path

import attrs

from benchmarks.measurement import Environment, markdown

CARD_GIB = 78.0
"""What a program has of a GPU of 80 GB, besides CUDA's own."""


@attrs.frozen(kw_only=True)
class Row:
    """One model under one method.

    Args:
        model: the preset.
        changed: what was typed besides.
        method: the preset.
        side: of the pictures, in pixels.
        compiled: whether blocks and decoder were.
        trained: parameters.
        batch: samples of a step.
        steps: of the training; of several, the first is not timed.
        typed_pull: what `--pull` said; None leaves it to the preset.
        pull: samples at a time in the backward pass; None where the memory did not suffice.
        checkpointing: of the blocks; None where it was not switched.
        calls: velocity calls for a sample, of the step that was timed.
        seconds: of a step; None where the memory did not suffice.
        weights: GiB of all networks.
        peak: GiB of everything on the device; None on the CPU.
        waits: how often the host waited for the device in the last step, by place.
    """

    model: str
    changed: str
    method: str
    side: int
    compiled: bool
    trained: int
    batch: int
    steps: int
    typed_pull: int | None = None
    weights: float
    pull: int | None = None
    checkpointing: bool | None = None
    calls: int | None = None
    seconds: float | None = None
    peak: float | None = None
    waits: dict[str, int] | None = None


_PORTIONS = "largest pull and the first that did not fit"
_KEY = ("model", "changed", "method", "side", "compiled", "batch", "steps", "typed_pull")


class Report:
    """Collects rows and rewrites the files after each, as a benchmark may be cut off.

    Rows that an earlier visit left there stay, if it was of the same environment, until they are
    measured again.

    Raises:
        SystemExit: the rows there have other columns.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.rows = folder, list[Row]()
        self.portions: dict[str, tuple[int, int | None]] = {}
        self.environment = attrs.asdict(Environment.here())
        file = folder / "backbones.json"
        tree = json.loads(file.read_text()) if file.exists() else {}
        if tree.get("environment") == self.environment:
            names = {field.name for field in attrs.fields(Row)}
            if any(row.keys() != names for row in tree["rows"]):
                raise SystemExit(
                    f"{file} has other columns than are written now; name a new folder"
                )
            self.rows = [Row(**row) for row in tree["rows"]]
            self.portions = tree[_PORTIONS]

    def add(self, row: Row) -> None:
        """A measured method, in the place of what it was."""
        self.rows = [old for old in self.rows if _key(old) != _key(row)]
        self.rows.append(row)
        print(row, flush=True)
        self.write()

    def write(self) -> None:
        """Both files."""
        tree = {
            "environment": self.environment,
            "rows": [attrs.asdict(row) for row in self.rows],
            _PORTIONS: self.portions,
        }
        (self.folder / "backbones.json").write_text(json.dumps(tree, indent=2) + "\n")
        (self.folder / "backbones.md").write_text(self.table() + "\n")

    def table(self) -> str:
        """Markdown."""
        columns = (
            "model", "trained", "method", "side", "compiled", "batch", "steps", "pull",
            "checkpointing", "velocity calls a sample", "s per step", "weights GiB", "peak GiB",
            "fits in 80 GB", "waits", "largest pull",
        )  # fmt: skip
        return markdown(columns, map(self.line, self.rows))

    def line(self, row: Row) -> tuple[str, ...]:
        """The cells of one row."""
        fits, too_many = self.portions.get(row.model, (None, None))
        largest_pull = "" if fits is None else f"{fits}" if too_many else f">= {fits}"
        return (
            f"{row.model} {row.changed}".strip(),
            f"{row.trained / 1e6:,.0f} M",
            row.method,
            str(row.side),
            _yes(row.compiled),
            str(row.batch),
            str(row.steps),
            _pull(row),
            _yes(row.checkpointing),
            "" if row.calls is None else str(row.calls),
            "out of memory" if row.seconds is None else f"{row.seconds:.2f}",
            f"{row.weights:.1f}",
            "" if row.peak is None else f"{row.peak:.1f}",
            _fits(row),
            "" if row.waits is None else str(sum(row.waits.values())),
            largest_pull,
        )


def _key(row: Row) -> tuple[object, ...]:
    return tuple(getattr(row, name) for name in _KEY)


def _pull(row: Row) -> str:
    # What ran out of memory has none but the typed one.
    pull = row.typed_pull if row.pull is None else row.pull
    return "" if pull is None else str(pull)


def _yes(value: bool | None) -> str:
    return "" if value is None else "yes" if value else "no"


def _fits(row: Row) -> str:
    if row.seconds is None:
        return "no"
    return "" if row.peak is None else _yes(row.peak <= CARD_GIB)
