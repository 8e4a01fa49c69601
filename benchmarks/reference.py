"""The reference step: the joint graph against the streamed one, in one process, alternating.

    python -m benchmarks.reference OUT [--rounds 3] [--sweeps active batch method] [--no-count]
                                   [--small]

SD3.5 Medium at full size with random weights in bfloat16, 512x512, 8 samples, 25 steps, guidance
3.5, Bridge with 5 active steps and alpha 1/2, 589 text tokens, AutoencoderKL and a ViT-H/14 reward.
No optimizer: what is timed ends with the gradient. OUT gets reference.json and reference.md,
rewritten after every round. `--small` is two-layer models on the CPU.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

import attrs
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.backbones import METHODS, clear, settings_of, vision_reward
from benchmarks.joint import joint_step
from benchmarks.measuring import GIB, Environment, markdown, matmul_rate, synchronize
from flowbp.adapters import DtypePolicy, compile_backbone
from flowbp.core import Bridge, Linear
from flowbp.testing import random_backbone
from flowbp.testing.published import SMALL
from flowbp.training import Batching, Sampling, Streams, TrainingStep

Network = Any


@attrs.frozen(kw_only=True)
class Case:
    """One way to compute the gradient of a step.

    Args:
        name: in the table.
        joint: one graph instead of the streamed one.
        compiled: whether compiled code is used.
        checkpointing: of the transformer's blocks.
        samples: of the step.
        pull: samples at a time in the backward pass.
        decode: samples at a time in the decoder.
        active: K.
        method: one of the presets', or Bridge with `active` if None.
    """

    name: str
    joint: bool = False
    compiled: bool = True
    checkpointing: bool = False
    samples: int = 8
    pull: int = 8
    decode: int = 4
    active: int = 5
    method: str | None = None


MAIN = (
    Case(name="joint graph", joint=True, compiled=False, checkpointing=True),
    Case(name="joint graph, blocks compiled", joint=True, checkpointing=True),
    Case(name="streamed, not compiled", compiled=False),
    Case(name="streamed, blocks compiled"),
    Case(name="streamed, compiled, small memory", checkpointing=True, decode=1),
)
SWEEPS: dict[str, tuple[Case, ...]] = {
    "active": tuple(Case(name=f"K = {k}", active=k) for k in (2, 5, 10, 15, 20, 25)),
    "batch": tuple(Case(name=f"{n} samples", samples=n) for n in (8, 16, 32, 64)),
    "method": tuple(Case(name=method, method=method) for method in METHODS),
}


@attrs.define
class Measured:
    """What the rounds of one case showed."""

    case: Case
    seconds: list[float] = attrs.field(factory=list)
    first_seconds: float = 0.0
    peak_gib: float | None = None
    evaluations: float = 0.0
    tflop: float | None = None
    cosine: float | None = None


class Subject:
    """The model, its reward, and the step of a case."""

    def __init__(self, *, small: bool, device: str | None = None) -> None:
        self.device = torch.device(device or ("cpu" if small else "cuda"))
        dtype = torch.float32 if small else torch.bfloat16
        self.backbone = random_backbone(
            "sd3.5 medium",
            policy=DtypePolicy(dtype, dtype),
            device=self.device,
            text_tokens=3 if small else 512,
            transformer=SMALL["sd3.5"] if small else None,
            vae=dict(block_out_channels=(32,) * 4, layers_per_block=1) if small else None,
        )
        self.reward = vision_reward(self.device, small=small)
        self.side, self.steps = (32, 6) if small else (512, 25)
        compile_backbone(self.backbone, backend="eager" if small else "inductor")
        self.parameters = list(self.backbone.trainable().values())
        for parameter in self.parameters:
            parameter.grad = torch.zeros_like(parameter)
        self.evaluated = 0
        self.backbone.module.register_forward_pre_hook(self._count, with_kwargs=True)

    def _count(self, module: Network, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        self.evaluated += len(kwargs["hidden_states"])

    def run(self, case: Case) -> None:
        """One step of a case; its gradient is in `.grad`, which is zeroed before."""
        torch._foreach_zero_([p.grad for p in self.parameters])
        self.evaluated = 0
        transformer = self.backbone.transformer
        if case.checkpointing:
            transformer.enable_gradient_checkpointing()
        else:
            transformer.disable_gradient_checkpointing()
        step, prompts = self.step(case), [f"prompt {i}" for i in range(case.samples)]
        with torch.compiler.set_stance("default" if case.compiled else "force_eager"):
            if case.joint:
                joint_step(step, prompts, Streams.of(0))
            else:
                step(prompts, Streams.of(0))
        synchronize(self.device)

    def step(self, case: Case) -> TrainingStep:
        """The streamed step of a case; the joint one reads its parts."""
        method: Any = Bridge(active=case.active, alpha=0.5, late_bias=4.0)
        guided = Sampling(steps=self.steps, guidance=3.5, height=self.side, width=self.side)
        if case.method is not None:
            settings = settings_of("sd35_medium", case.method)
            method, kept = settings.method, settings.sampling
            guided = attrs.evolve(kept, height=self.side, width=self.side)
        return TrainingStep(
            backbone=self.backbone,
            reward=self.reward,
            method=method,
            shape=Linear(),
            sampling=guided,
            batching=Batching(
                samples=min(case.samples, 8),
                accumulate=max(1, case.samples // 8),
                pull=case.pull,
                decode=case.decode,
            ),
        )

    def gradient(self) -> list[Tensor]:
        """A copy of the gradients."""
        return [p.grad.clone() for p in self.parameters if p.grad is not None]

    def cosine(self, reference: Sequence[Tensor]) -> float:
        """Of the present gradient to another, as long vectors in float32."""
        products = torch.zeros(3, dtype=torch.float64)
        for mine, theirs in zip(self.gradient(), reference, strict=True):
            a, b = mine.flatten().float(), theirs.flatten().float()
            products += torch.stack([a @ b, a @ a, b @ b]).double().cpu()
        return float(products[0] / (products[1] * products[2]).sqrt())


@contextmanager
def peak_above(measured: Measured, device: torch.device) -> Iterator[None]:
    """Record the memory that was taken besides what was there before."""
    if device.type != "cuda":
        yield
        return
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    yield
    measured.peak_gib = (torch.cuda.max_memory_allocated() - before) / GIB


def alternate(
    subject: Subject, cases: Sequence[Case], rounds: int, done: Callable[[list[Measured]], None]
) -> list[Measured]:
    """Run all cases once to compile, compare and count, then again and again to time them."""
    results = [Measured(case) for case in cases]
    for number in range(rounds + 1):
        for result in results:
            clear()
            begun = time.perf_counter()
            with peak_above(result, subject.device):
                subject.run(result.case)
            seconds = time.perf_counter() - begun
            if number == 0:
                result.first_seconds = seconds
                result.evaluations = subject.evaluated / result.case.samples
            else:
                result.seconds.append(seconds)
            print(f"round {number}: {result.case.name}: {seconds:.2f} s", flush=True)
        done(results)
    return results


def compare(subject: Subject, results: Sequence[Measured]) -> None:
    """The gradient of every case against that of the first."""
    subject.run(results[0].case)
    reference = subject.gradient()
    for result in results[1:]:
        subject.run(result.case)
        result.cosine = subject.cosine(reference)


def count(results: Sequence[Measured], *, small: bool) -> None:
    """Floating-point operations, of the code that is not compiled, on tensors without data."""
    # torch has no autocast for tensors without data, and all dtypes are given here.
    with mock.patch("torch.autocast", lambda *_, **__: nullcontext()):
        subject = Subject(small=small, device="meta")
        for result in results:
            with FlopCounterMode(display=False) as counter:
                subject.run(attrs.evolve(result.case, compiled=False))
            result.tflop = counter.get_total_flops() / 1e12


class Report:
    """Writes both files anew whenever something was measured."""

    def __init__(self, folder: Path, device: torch.device) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.rate = folder, matmul_rate(device)
        self.tables: dict[str, list[Measured]] = {}

    def write(self, name: str, results: list[Measured]) -> None:
        """Put a table in, or in the place of what it was."""
        self.tables[name] = results
        tree = {
            "environment": attrs.asdict(Environment.here()),
            "matrix product, TFLOP/s": self.rate,
            "tables": {key: [attrs.asdict(r) for r in rows] for key, rows in self.tables.items()},
        }
        (self.folder / "reference.json").write_text(json.dumps(tree, indent=2) + "\n")
        parts = (f"{key}\n\n{self.table(rows)}\n" for key, rows in self.tables.items())
        (self.folder / "reference.md").write_text("\n".join(parts))

    def table(self, results: Sequence[Measured]) -> str:
        """Markdown."""
        columns = (
            "step", "seconds", "first", "TFLOP", "share of the matrix rate", "peak GiB",
            "velocity calls a sample", "cosine",
        )  # fmt: skip
        return markdown(columns, map(self.line, results))

    def line(self, result: Measured) -> tuple[str, ...]:
        """The cells of one case."""
        # A sweep is of one round: what it runs was compiled by the table before it.
        seconds = statistics.median(result.seconds or [result.first_seconds])
        rate = result.tflop / seconds / self.rate if result.tflop else None
        return (
            result.case.name,
            f"{seconds:.2f}",
            f"{result.first_seconds:.1f}",
            _figure(result.tflop, "{:.0f}"),
            _figure(rate, "{:.0%}"),
            _figure(result.peak_gib, "{:.1f}"),
            f"{result.evaluations:.0f}",
            _figure(result.cosine, "{:.5f}"),
        )


def _figure(value: float | None, form: str) -> str:
    return "" if value is None else form.format(value)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--rounds", type=int, default=3, help="timed ones, after the first")
    parser.add_argument("--sweeps", nargs="*", choices=SWEEPS, default=())
    parser.add_argument("--cases", nargs="+", choices=[case.name for case in MAIN])
    parser.add_argument("--no-main", action="store_true", help="the sweeps alone")
    parser.add_argument("--no-count", action="store_true", help="no FLOP, which take a minute")
    parser.add_argument("--small", action="store_true", help="two-layer models, on the CPU")
    wanted = parser.parse_args()
    subject = Subject(small=wanted.small)
    report = Report(wanted.out, subject.device)
    if not wanted.no_main:
        cases = [case for case in MAIN if wanted.cases is None or case.name in wanted.cases]
        results = alternate(
            subject, cases, wanted.rounds, lambda rows: report.write("reference step", rows)
        )
        compare(subject, results)
        report.write("reference step", results)
        if not wanted.no_count:
            count(results, small=wanted.small)
            report.write("reference step", results)
    for name in wanted.sweeps:
        alternate(subject, SWEEPS[name], 0, lambda rows, name=name: report.write(name, rows))
    print((wanted.out / "reference.md").read_text())


if __name__ == "__main__":
    main()
