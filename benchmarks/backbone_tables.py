"""What the benchmark of the model families found, as JSON and as Markdown."""

from __future__ import annotations

import json
from operator import attrgetter
from pathlib import Path

import attrs

from benchmarks.measurement import Environment, markdown

CARD_GIB = 78.0
"""What a program has of a GPU of 80 GB, besides CUDA's own."""


@attrs.frozen(kw_only=True)
class Row:
    """One model under one method; numbers are None where the memory did not suffice."""

    model: str
    changed: str
    method: str
    side: int
    compiled: bool
    trained: int
    batch: int
    steps: int
    # What `--pull` said; None leaves it to the preset.
    typed_pull: int | None = None
    # GiB of a smaller GPU that it was trained as on.
    memory: float | None = None
    # GiB of all networks, and the peak of everything on the device.
    weights: float
    pull: int | None = None
    decode: int | None = None
    checkpointing: bool | None = None
    calls: int | None = None
    seconds: float | None = None
    peak: float | None = None
    waits: dict[str, int] | None = None


_PORTIONS = "largest pull and the first that did not fit"
_KEY = attrgetter(
    "model", "changed", "method", "side", "compiled", "batch", "steps", "typed_pull", "memory"
)


class Report:
    """Collects rows and rewrites the files after each, as a benchmark may be cut off.

    Rows that an earlier visit left there stay, if it was of the same environment, until they are
    measured again.
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
        key = _KEY(row)
        self.rows = [old for old in self.rows if _KEY(old) != key]
        self.rows.append(row)
        print(row, flush=True)
        self.write()

    def write(self) -> None:
        tree = {
            "environment": self.environment,
            "rows": [attrs.asdict(row) for row in self.rows],
            _PORTIONS: self.portions,
        }
        (self.folder / "backbones.json").write_text(json.dumps(tree, indent=2) + "\n")
        (self.folder / "backbones.md").write_text(self.table() + "\n")

    def table(self) -> str:
        columns = (
            "model", "trained", "method", "side", "compiled", "batch", "steps", "pull",
            "decode", "checkpointing", "velocity calls a sample", "s per step", "weights GiB",
            "peak GiB", "fits in 80 GB", "waits", "largest pull",
        )  # fmt: skip
        return markdown(columns, map(self.line, self.rows))

    def line(self, row: Row) -> tuple[str, ...]:
        fits, too_many = self.portions.get(row.model, (None, None))
        largest_pull = "" if fits is None else f"{fits}" if too_many else f">= {fits}"
        # What ran out of memory has none but the typed one.
        pull = row.typed_pull if row.pull is None else row.pull
        fitted = "no" if row.seconds is None else ""
        if row.seconds is not None and row.peak is not None:
            fitted = _yes(row.peak <= CARD_GIB)
        limit = "" if row.memory is None else f"in {row.memory:g} GiB"
        return (
            " ".join(filter(None, (row.model, row.changed, limit))),
            f"{row.trained / 1e6:,.0f} M",
            row.method,
            str(row.side),
            _yes(row.compiled),
            str(row.batch),
            str(row.steps),
            "" if pull is None else str(pull),
            "" if row.decode is None else str(row.decode),
            _yes(row.checkpointing),
            "" if row.calls is None else str(row.calls),
            "out of memory" if row.seconds is None else f"{row.seconds:.2f}",
            f"{row.weights:.1f}",
            "" if row.peak is None else f"{row.peak:.1f}",
            fitted,
            "" if row.waits is None else str(sum(row.waits.values())),
            largest_pull,
        )


def _yes(value: bool | None) -> str:
    return "" if value is None else "yes" if value else "no"
