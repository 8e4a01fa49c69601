"""The model of the reference benchmark, and one step of a case on it."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import attrs
import torch
from diffusers.models.activations import GELU
from torch import Tensor

from benchmarks.joint_graph import after_sampling, joint_step, plain_decode, while_sampling
from benchmarks.measurement import synchronize
from benchmarks.random_backbone import SMALL, SMALL_VAES, random_backbone
from benchmarks.random_models import vision_reward
from benchmarks.reference_cases import Case
from flowbp.adapters import DtypePolicy, LatentDecoder, compile_backbone, compile_blocks
from flowbp.adapters.faster_modules import TanhGelu
from flowbp.core import Linear
from flowbp.prompts import cached
from flowbp.training import Streams, TrainingStep

Network = Any
_SMALLER = 16


class Subject:
    """SD3.5 Medium with its reward; in small two layers, and pictures of a 16th of the side."""

    def __init__(self, *, small: bool, device: str | None = None, compiled: bool = True) -> None:
        self.small = small
        self.device = torch.device(device or ("cpu" if small else "cuda"))
        dtype = torch.float32 if small else torch.bfloat16
        self.backbone = random_backbone(
            "sd3.5 medium",
            policy=DtypePolicy(dtype, dtype),
            device=self.device,
            text_tokens=3 if small else 512,
            transformer=SMALL["sd3.5"] if small else None,
            vae=SMALL_VAES["sd3.5"] if small else None,
        )
        self.reward = vision_reward(self.device, small=small)
        meta = self.device.type == "meta"
        # As a run has it: prompts are encoded once. Tensors without data cannot be kept.
        self.model: Any = self.backbone if meta else cached(self.backbone, None)
        # The VAE is laid out otherwise for the compiler, which without it is slower.
        self.plain = attrs.evolve(self.model, **self._with_a_decoder_of_its_own(self.model))
        self.backend = "eager" if small else "inductor"
        self.compiled = compiled
        if compiled:
            compile_backbone(self.backbone, backend=self.backend)
        self.parameters = list(self.backbone.trainable().values())
        for parameter in self.parameters:
            parameter.grad = torch.zeros_like(parameter)
        self.evaluated = 0
        self.backbone.module.register_forward_pre_hook(self._count, with_kwargs=True)

    def _with_a_decoder_of_its_own(self, model: Any) -> dict[str, Any]:
        decoder = copy.deepcopy(self.backbone.decoder)
        if model is self.backbone:
            return {"decoder": decoder}
        return {"backbone": attrs.evolve(self.backbone, decoder=decoder)}

    def _count(self, module: Network, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
        self.evaluated += len(kwargs["hidden_states"])

    def prepared(self, case: Case) -> Callable[[], None]:
        """One step of a case, to be run; what a training does once or encodes ahead is done.

        Its gradient is then in `.grad`, which is zeroed before.
        """
        self._prepare_blocks(case)
        step, prompts = self.step(case), [f"prompt {i}" for i in range(case.samples)]
        self.model.encode(prompts)
        self.reward.embed_prompts(prompts)
        return partial(self._run, case, step, prompts)

    def _prepare_blocks(self, case: Case) -> None:
        self.backbone.checkpoint_gradients(case.checkpointing)
        network = self.backbone.module
        if self.compiled:
            kept = 1.0 if case.joint else case.activations
            compile_blocks(network, activations=kept, backend=self.backend)
        if case.as_written:
            for part in network.modules():
                if type(part) is TanhGelu:
                    part.__class__ = GELU

    def _run(self, case: Case, step: TrainingStep, prompts: Sequence[str]) -> None:
        torch._foreach_zero_([p.grad for p in self.parameters if p.grad is not None])
        self.evaluated = 0
        with torch.compiler.set_stance("default" if case.compiled else "force_eager"):
            if case.joint:
                read = while_sampling if case.one_pass else after_sampling
                decode = LatentDecoder.__call__ if case.faster_modules else plain_decode
                joint_step(
                    step, prompts, Streams.of(0), read=read, portion=case.decode, decode=decode
                )
            else:
                step(prompts, Streams.of(0))
        synchronize(self.device)

    def step(self, case: Case) -> TrainingStep:
        """The streamed step of a case; the joint one reads its parts."""
        sampling = case.sampling
        if self.small:
            side = case.side // _SMALLER
            sampling = attrs.evolve(sampling, height=side, width=side)
        return TrainingStep(
            backbone=self.plain if case.as_written else self.model,
            reward=self.reward,
            method=case.method,
            shape=Linear(),
            sampling=sampling,
            batching=case.batching,
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
