"""Every model family at full size under its preset: seconds a step, memory, the largest batch.

    python -m benchmarks.backbones OUT [--models sd35_medium flux1_dev flux2_klein]
                                   [--methods bridge ...] [--batch 8] [--pull 4] [--steps 3]
                                   [--set dotted.key=value ...] [--small]

The weights are random; what is measured is the shipped presets' training step, with optimizer and
average. OUT gets backbones.json and backbones.md, rewritten after every row.
"""

from __future__ import annotations

import argparse
import gc
import json
import time
from collections.abc import Sequence
from pathlib import Path

import attrs
import torch
from dependency_injector import providers
from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

from benchmarks.measuring import Environment, Recorder, markdown, peak_gib, weights_gib
from flowbp.adapters import Backbone, DtypePolicy
from flowbp.container import RunContainer
from flowbp.rewards import ClipReward
from flowbp.settings import Settings, load
from flowbp.testing import random_backbone
from flowbp.testing.published import SMALL
from flowbp.training import PromptList

PUBLISHED = {
    "sd35_medium": "sd3.5 medium",
    "flux1_dev": "flux1 dev",
    "flux2_klein": "flux2 klein 9B",
}
METHODS = ("refl", "draft_lv", "drtune", "leap_align", "sparse", "bridge", "lagrange")
SIZES = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128)


@attrs.frozen(kw_only=True)
class Row:
    """One model under one method."""

    model: str
    changed: str
    method: str
    trained: int
    batch: int
    pull: int
    calls: int
    seconds: float
    weights: float
    peak: float | None


def settings_of(model: str, method: str, *overrides: str) -> Settings:
    """The two presets as they ship, with what every run has to say besides."""
    needed = ("run.folder=benchmark", "reward.name=clip", "reward.source=none", "samples=null")
    files = (f"presets/{model}.yaml", f"presets/{method}.yaml")
    return load([*files, *needed, "prompts.name=shapes", *overrides]).settings


def vision_reward(device: torch.device, *, small: bool) -> ClipReward:
    """A ViT-H/14 CLIP with random weights in bfloat16, the size of HPSv2.1 and PickScore."""
    text = dict(vocab_size=3, eos_token_id=1)
    if small:
        text |= dict(hidden_size=8, intermediate_size=8, num_hidden_layers=1)
        vision = dict(image_size=28, hidden_size=8, intermediate_size=8, num_hidden_layers=1)
        heads = dict(num_attention_heads=1)
    else:
        text |= dict(hidden_size=1024, intermediate_size=4096, num_hidden_layers=24)
        vision = dict(hidden_size=1280, intermediate_size=5120, num_hidden_layers=32)
        heads = dict(num_attention_heads=16)
    config = CLIPConfig(
        text_config=text | heads,
        vision_config=vision | heads | dict(patch_size=14),
        projection_dim=1024,
    )
    dtype = torch.float32 if small else torch.bfloat16
    with device:
        model = CLIPModel(config)
    return ClipReward(
        model=model, tokenizer=CLIPTokenizer(), policy=DtypePolicy(dtype, dtype), device=device
    )


class Bench:
    """One model on the device, tuned as its preset says, with the reward beside it."""

    def __init__(
        self, model: str, device: torch.device, *, small: bool, changed: Sequence[str]
    ) -> None:
        self.model, self.small, self.changed = model, small, changed
        settings = self.settings("bridge")
        wanted = settings.backbone.arguments
        backbone = random_backbone(
            PUBLISHED[model],
            policy=wanted["policy"],
            device=device,
            text_tokens=8 if small else wanted["text_length"],
            decode_batch=wanted.get("decode_batch"),
            gradient_checkpointing=wanted.get("gradient_checkpointing", "auto"),
            transformer=SMALL[PUBLISHED[model].split()[0]] if small else None,
            vae=dict(block_out_channels=(32,) * 4, layers_per_block=1) if small else None,
        )
        self.reward = vision_reward(device, small=small)
        container = RunContainer(settings=settings)
        container.backbone.override(providers.Object(backbone))
        self.tuned: Backbone = container.tuned()
        networks = (backbone.transformer, backbone.decoder.vae, self.reward.model)
        self.weights = weights_gib(networks)
        self.trained = sum(p.numel() for p in self.tuned.trainable().values())

    def settings(self, method: str, *overrides: str) -> Settings:
        """The presets', in small if asked for."""
        tiny = ("sampling.height=64", "sampling.width=64", "run.device=cpu") if self.small else ()
        return settings_of(self.model, method, *tiny, *self.changed, *overrides)

    def train(self, method: str, *overrides: str) -> tuple[Recorder, Settings]:
        """Run some optimizer steps; memory is back to the model's alone afterwards."""
        settings, recorder = self.settings(method, *overrides), Recorder()
        container = RunContainer(settings=settings)
        container.tuned.override(providers.Object(self.tuned))
        container.reward.override(providers.Object(self.reward))
        container.own_prompts.override(providers.Object(PromptList(["one", "two", "three"])))
        container.checkpoints.override(providers.Object(None))
        container.progress.override(providers.Object(recorder))
        container.observers.override(providers.Object(()))
        container.trainer().run()
        return recorder, settings

    def row(self, method: str, *, batch: int, steps: int, pull: int | None = None) -> Row:
        """Time one method."""
        clear()
        sizes = [f"batching.samples={batch}", "batching.accumulate=1", f"training.steps={steps}"]
        sizes += [f"batching.pull={pull}"] if pull else []
        recorder, settings = self.train(method, *sizes, "training.averaging.warmup=true")
        return Row(
            model=self.model,
            changed=" ".join(self.changed),
            method=method,
            trained=self.trained,
            batch=batch,
            pull=recorder.pull_of(settings.batching.pull_size),
            calls=recorder.rows[-1].velocity_calls,
            seconds=recorder.seconds,
            weights=self.weights,
            peak=peak_gib(),
        )

    def fits(self, size: int) -> bool:
        """Whether one pull of so many samples fits, with all that training keeps besides."""
        clear()
        portions = (f"batching={{samples: {size}, pull: {size}, accumulate: 1}}",)
        short = ("sampling.steps=2", "method={name: sparse, active: 1}", "training.steps=2")
        try:
            recorder, _ = self.train("sparse", *portions, *short, "training.averaging.warmup=true")
        except torch.OutOfMemoryError:
            return False
        # A training that ran out of memory goes on with less.
        return recorder.pull_of(size) == size


def clear() -> None:
    """Free what the last training held."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def largest(bench: Bench, *, start: int, deadline: float) -> tuple[int, int | None]:
    """The largest pull that fits, and the smallest that does not; None if time ran out first."""
    found = 0
    for size in SIZES:
        if size < start:
            continue
        if time.monotonic() > deadline:
            break
        if not bench.fits(size):
            return found, size
        found = size
    return found, None


class Report:
    """Collects rows and rewrites the files after each, as a benchmark may be cut off."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, self.rows = folder, list[Row]()
        self.portions: dict[str, tuple[int, int | None]] = {}

    def add(self, row: Row) -> None:
        """A measured method."""
        self.rows.append(row)
        print(row, flush=True)
        self.write()

    def write(self) -> None:
        """Both files."""
        tree = {
            "environment": attrs.asdict(Environment.here()),
            "rows": [attrs.asdict(row) for row in self.rows],
            "largest pull and the first that did not fit": self.portions,
        }
        (self.folder / "backbones.json").write_text(json.dumps(tree, indent=2) + "\n")
        (self.folder / "backbones.md").write_text(self.table() + "\n")

    def table(self) -> str:
        """Markdown."""
        columns = (
            "model", "trained", "method", "batch", "pull", "velocity calls a sample",
            "s per step", "weights GiB", "peak GiB", "largest pull",
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
            str(row.batch),
            str(row.pull),
            str(row.calls),
            f"{row.seconds:.2f}",
            f"{row.weights:.1f}",
            "" if row.peak is None else f"{row.peak:.1f}",
            largest_pull,
        )


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("out", type=Path)
    parser.add_argument("--models", nargs="+", choices=PUBLISHED, default=tuple(PUBLISHED))
    parser.add_argument("--methods", nargs="*", choices=METHODS, default=METHODS)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--steps", type=int, default=3, help="timed steps are all but the first")
    parser.add_argument("--portion-seconds", type=float, default=120.0)
    parser.add_argument("--pull", type=int, help="instead of the preset's")
    parser.add_argument("--start", type=int, default=1, help="the first pull that is tried")
    parser.add_argument("--set", nargs="+", default=(), help="changes to the presets")
    parser.add_argument("--small", action="store_true", help="two-layer models, on the CPU")
    wanted = parser.parse_args()
    device = torch.device("cpu" if wanted.small else "cuda")
    report = Report(wanted.out)
    for model in wanted.models:
        bench = Bench(model, device, small=wanted.small, changed=wanted.set)
        for method in wanted.methods:
            report.add(bench.row(method, batch=wanted.batch, steps=wanted.steps, pull=wanted.pull))
        if not wanted.small:
            deadline = time.monotonic() + wanted.portion_seconds
            report.portions[model] = largest(bench, start=wanted.start, deadline=deadline)
            report.write()
        del bench
        clear()
    print(report.table())


if __name__ == "__main__":
    main()
