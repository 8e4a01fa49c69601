"""What a step's cases ask for, on tensors without data: operations, and waits of the host.

    python -m benchmarks.counting OUT [--small]

Needs no device. OUT's reference.json and reference.md, of `benchmarks.reference`, get the
floating-point operations of every row of the main table, of the code that is not compiled, and how
often the host would wait for a device where that was not measured on one.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import attrs
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.device_waits import host_waits
from benchmarks.measurement import without_autocast
from benchmarks.reference import MAIN_TABLE
from benchmarks.reference_cases import MAIN, Case
from benchmarks.reference_model import Subject
from benchmarks.reference_tables import Tables


def counted(subject: Subject, case: Case) -> tuple[float, dict[str, int]]:
    """The TFLOP of a case, and the waits of the host by place."""
    step = subject.prepared(attrs.evolve(case, compiled=False))
    with FlopCounterMode(display=False) as counter, host_waits(subject.device) as waits:
        step()
    return counter.get_total_flops() / 1e12, dict(waits)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--small", action="store_true", help="as the table was measured")
    wanted = parser.parse_args()
    tables = Tables(wanted.out)
    rows = {row["name"]: row for row in tables.tables[MAIN_TABLE]["rows"]}
    with without_autocast():
        subject = Subject(small=wanted.small, device="meta", compiled=False)
        for case in MAIN:
            if case.name not in rows:
                continue
            row = rows[case.name]
            row["tflop"], waits = counted(subject, case)
            if row["waits"] is None:
                row["waits"] = waits
            tables.write()
    print((wanted.out / "reference.md").read_text())


if __name__ == "__main__":
    main()
