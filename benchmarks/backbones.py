"""Every model family at full size under its preset: seconds a step, memory, the largest batch.

    python -m benchmarks.backbones OUT [--models sd35_medium flux1_dev flux2_klein]
                                   [--methods bridge ...] [--sides 512 1024] [--batch 8]
                                   [--pull 4] [--steps 3] [--eager] [--portion-seconds 120]
                                   [--memory GIB] [--set dotted.key=value ...] [--small]

The weights are random; what is measured is the shipped presets' training step, with the state of
the optimizer and the average, and all the memory that it takes. OUT gets backbones.json and
backbones.md, rewritten after every row; what does not fit into the memory is a row that says so.

Blocks and decoder are compiled unless `--eager` says otherwise, which takes a minute or more for
every side and pull; `--pull` then saves compiling the pulls that `auto` would try. With `--steps 1`
the only step is timed: after a short training, which compiles for the sizes that `--pull` says or
`auto` takes, or, with neither `--pull` nor compiling, after what `auto` tried.

`--memory 24` trains as on a GPU of 24 GiB. The networks are built without that limit: random
weights are all drawn on the device before they are quantised.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import attrs
import torch
from dependency_injector import providers

from benchmarks.backbone_tables import Report, Row
from benchmarks.device_waits import host_waits
from benchmarks.measurement import (
    Recorder,
    WithState,
    clear,
    collect,
    fits,
    limited_memory,
    peak_gib,
    weights_gib,
)
from benchmarks.random_backbone import SMALL, SMALL_VAES, random_backbone
from benchmarks.random_models import METHODS, PUBLISHED, settings_of, vision_reward
from flowbp.adapters import Backbone, DiffusersBackbone, compile_backbone
from flowbp.cli.run.predicted_memory import predicted_peak
from flowbp.settings import RunContainer, Settings
from flowbp.settings.unloaded_model import META
from flowbp.settings.unloaded_reward import PicturesAlone
from flowbp.training import ALONE, PromptList, Ranks
from flowbp.training.division import Division, Needs
from flowbp.training.peak_memory import Peak

SIZES = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128)
_SMALLER = 16
_SHORT = ("sampling.steps=2", "method={name: sparse, active: 1}")
# A pull at a joint has a graph of its own where only adapters are trained, and so code of its own.
_WARM = ("sampling.steps=2", "method={name: bridge, active: 2}")


def backbone_of(
    settings: Settings, model: str, device: torch.device, *, small: bool
) -> DiffusersBackbone:
    """A model as its preset says, with random weights, or on the meta device with none."""
    wanted, family = settings.backbone.arguments, PUBLISHED[model].split()[0]
    return random_backbone(
        PUBLISHED[model],
        policy=wanted["policy"],
        device=device,
        text_tokens=8 if small else wanted["text_length"],
        decode_batch=wanted.get("decode_batch"),
        gradient_checkpointing=wanted.get("gradient_checkpointing", "auto"),
        quantization=wanted.get("quantization"),
        transformer=SMALL[family] if small else None,
        vae=SMALL_VAES[family] if small else None,
    )


def predicted(
    settings: Settings,
    model: str,
    found: tuple[Division, Needs],
    *,
    processes: int = 1,
    small: bool = False,
    compiled: bool,
    device: str = "cuda",
    memory: int | None = None,
) -> Peak:
    """The peak of a step of such a model, divided so, found without weights.

    On devices with so many bytes of `memory`; None fits nothing into it.
    """
    sketch = settings.tuning(
        backbone_of(settings, model, META, small=small), generator=torch.Generator()
    )
    if compiled and not settings.run.compile:
        settings = attrs.evolve(settings, run=attrs.evolve(settings.run, compile=True))
    reward = PicturesAlone(vision_reward(META, small=small))
    return predicted_peak(
        settings, sketch, reward, found, processes=processes, device=device, memory=memory
    )


class Bench:
    """One model on the device, tuned as its preset says, with the reward beside it."""

    def __init__(
        self,
        model: str,
        device: torch.device,
        *,
        small: bool,
        compiled: bool,
        changed: Sequence[str] = (),
        memory: float | None = None,
    ) -> None:
        self.model, self.small, self.changed = model, small, changed
        self.device, self.memory = device, memory
        settings = self.settings("bridge")
        self.compiled = compiled or settings.run.compile
        backbone = backbone_of(settings, model, device, small=small)
        self.reward = vision_reward(device, small=small)
        container = RunContainer(settings=settings)
        container.backbone.override(providers.Object(backbone))
        self.tuned: Backbone = container.tuned()
        if compiled and not settings.run.compile:
            compile_backbone(self.tuned, backend="eager" if small else "inductor")
        networks = (backbone.transformer, backbone.decoder.vae, self.reward.model)
        self.weights = weights_gib(networks)
        self.trained = sum(p.numel() for p in self.tuned.trainable().values())

    def settings(self, method: str, *overrides: str) -> Settings:
        """The presets', on the CPU if asked for in small."""
        own = ("training.averaging.warmup=true", *(("run.device=cpu",) if self.small else ()))
        # Of two for the same key the later one, as a short training has another than was typed.
        last = {each.partition("=")[0]: each for each in (*own, *self.changed, *overrides)}
        return settings_of(self.model, method, *last.values())

    def train(self, method: str, *overrides: str) -> tuple[Recorder, Settings]:
        """Run some optimizer steps; memory is back to the model's alone afterwards."""
        settings = self.settings(method, *overrides)
        cuda = self.device.type == "cuda"
        with host_waits(self.device) if cuda else nullcontext() as waits:
            recorder = Recorder(waits)
            self.run(settings, recorder)
        return recorder, settings

    def run(self, settings: Settings, recorder: Recorder, ranks: Ranks = ALONE) -> None:
        """Train as some settings of this model say, alone or as one of several processes."""
        container = RunContainer(settings=settings, ranks=ranks)
        container.tuned.override(providers.Object(self.tuned))
        container.reward.override(providers.Object(self.reward))
        container.prompts.override(providers.Object(PromptList(["one", "two", "three"])))
        container.optimizer.override(providers.Object(WithState(settings.optimizer)))
        container.checkpoints.override(providers.Object(None))
        container.observers.override(providers.Object(()))
        container.progress.override(providers.Object(recorder))
        container.trainer().run()

    def row(
        self, method: str, *, side: int, batch: int, steps: int, pull: int | None = None
    ) -> Row:
        """Time one method at one size."""
        clear()
        row = Row(
            model=self.model,
            changed=" ".join(self.changed),
            method=method,
            side=side,
            compiled=self.compiled,
            trained=self.trained,
            batch=batch,
            steps=steps,
            typed_pull=pull,
            memory=self.memory,
            weights=self.weights,
        )
        pixels = side // _SMALLER if self.small else side
        sizes = [f"sampling.height={pixels}", f"sampling.width={pixels}"]
        sizes += [
            f"batching.samples={batch}",
            f"batching.global={batch}",
            f"training.steps={steps}",
        ]
        sizes += [f"batching.pull={pull}"] if pull else []
        found: list[Row] = []

        def measure() -> None:
            if steps == 1 and (pull or self.compiled):
                self.train(method, *sizes, *_WARM)
                collect()
            found.append(self._measured(row, method, sizes))

        with nullcontext() if self.memory is None else limited_memory(self.memory):
            return found[0] if fits(measure) else row

    def _measured(self, row: Row, method: str, sizes: Sequence[str]) -> Row:
        recorder, settings = self.train(method, *sizes)
        last = recorder.chosen[-1] if recorder.chosen else None
        return attrs.evolve(
            row,
            pull=recorder.pull_of(settings.batching.pull_size),
            decode=None if last is None else last.decode,
            checkpointing=None if last is None else last.checkpointing,
            calls=recorder.rows[-1].velocity_calls,
            seconds=recorder.seconds,
            peak=peak_gib(),
            waits=None if recorder.last_waits is None else dict(recorder.last_waits),
        )

    def fits(self, size: int) -> bool:
        """Whether one pull of so many samples fits, with all that training keeps besides."""
        clear()
        portions = (f"batching={{samples: {size}, pull: {size}, global: {size}}}",)
        pulls: list[int] = []

        def train() -> None:
            recorder, _ = self.train("sparse", *portions, *_SHORT, "training.steps=2")
            pulls.append(recorder.pull_of(size))

        # A training that ran out of memory goes on with less.
        return fits(train) and pulls == [size]


def largest(bench: Bench, *, start: int, deadline: float) -> tuple[int, int | None]:
    """The largest pull that fits, and the smallest that does not; None if time ran out first."""
    found = 0
    for size in (size for size in SIZES if size >= start):
        if time.monotonic() > deadline:
            break
        if not bench.fits(size):
            return found, size
        found = size
    return found, None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--models", nargs="+", choices=PUBLISHED, default=tuple(PUBLISHED))
    parser.add_argument("--methods", nargs="*", choices=METHODS, default=METHODS)
    parser.add_argument("--sides", nargs="+", type=int, default=(512,), help="of the pictures")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=3, help="of several, the first is not timed")
    parser.add_argument("--portion-seconds", type=float, default=120.0)
    parser.add_argument("--pull", type=int, help="instead of the preset's")
    parser.add_argument("--start", type=int, default=1, help="the first pull that is tried")
    parser.add_argument("--memory", type=float, help="GiB of a smaller GPU to train on")
    parser.add_argument("--eager", action="store_true", help="nothing is compiled")
    parser.add_argument("--set", nargs="+", default=(), help="changes to the presets")
    parser.add_argument("--small", action="store_true", help="two-layer models, on the CPU")
    wanted = parser.parse_args()
    device = torch.device("cpu" if wanted.small else "cuda")
    report = Report(wanted.out)
    for model in wanted.models:
        bench = Bench(
            model,
            device,
            small=wanted.small,
            compiled=not wanted.eager,
            changed=wanted.set,
            memory=wanted.memory,
        )
        sizes = {"batch": wanted.batch, "steps": wanted.steps, "pull": wanted.pull}
        for side in wanted.sides:
            for method in wanted.methods:
                report.add(bench.row(method, side=side, **sizes))
        if not wanted.small and wanted.portion_seconds > 0:
            deadline = time.monotonic() + wanted.portion_seconds
            report.portions[model] = largest(bench, start=wanted.start, deadline=deadline)
            report.write()
        del bench
        clear()
    print(report.table())


if __name__ == "__main__":
    main()
