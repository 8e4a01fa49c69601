"""The backbone check passes on a small sound backbone, and finds each fault of a broken one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor, nn

from flowbp.adapters import Conditioning
from flowbp.core import VelocityField
from flowbp.testing import check_backbone
from flowbp.testing.backbone import check_noise

SIZE = 6


class Network(nn.Module):
    """A velocity on vectors: nothing about a backbone asks for pictures as latents."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(SIZE + 3, 8)
        self.outer = nn.Linear(8, SIZE)

    def forward(self, x: Tensor, sigma: Tensor, context: Tensor) -> Tensor:
        level = sigma.expand(x.shape[0], 1).to(x)
        return self.outer(self.inner(torch.cat([x, level, context], dim=1)).tanh())


class Tiny:
    """A backbone of two linear layers."""

    def __init__(self) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            self.module: nn.Module = Network()
            self.pixels = torch.randn(SIZE, 3, 4, 5)
        self.device = torch.device("cpu")

    def encode(self, prompts: Sequence[str]) -> Conditioning:
        rows = [[len(prompt) / 10, prompt.count("a") / 2] for prompt in prompts]
        return Conditioning({"context": torch.tensor(rows)})

    def noise(self, count: int, *, height: int, width: int, generator: torch.Generator) -> Tensor:
        return torch.randn(count, SIZE, generator=generator)

    def sigmas(self, steps: int, *, height: int, width: int) -> Tensor:
        return torch.linspace(1, 0, steps + 1)

    def velocity(self, conditioning: Conditioning) -> VelocityField:
        return lambda x, sigma: self.module(x, sigma, conditioning.tensors["context"])

    def decode(self, latents: Tensor) -> Tensor:
        return torch.einsum("bs,schw->bchw", latents, self.pixels).sigmoid()

    def trainable(self) -> Mapping[str, nn.Parameter]:
        return dict(self.module.named_parameters())

    def save(self, folder: Path) -> None:
        torch.save(self.module.state_dict(), folder / "model.pt")


def check(backbone: Tiny, **settings) -> None:
    check_backbone(backbone, ["a cat", "banana", ""], height=4, width=5, **settings)


def test_a_sound_backbone_passes_and_is_left_alone():
    backbone = Tiny()
    for parameter in backbone.module.parameters():
        parameter.grad = torch.ones_like(parameter)
    before = {name: p.detach().clone() for name, p in backbone.trainable().items()}
    check(backbone)
    for name, parameter in backbone.trainable().items():
        assert torch.equal(parameter, before[name])
        assert torch.equal(parameter.grad, torch.ones_like(parameter))


def test_guidance_is_checked_with_both_branches():
    backbone = Tiny()
    check(backbone, guidance=3.0)
    asked = []
    sound = backbone.encode
    backbone.encode = lambda prompts: asked.append(list(prompts)) or sound(prompts)
    check(backbone, guidance=3.0)
    assert [""] in asked


def test_float64_is_checked_to_its_own_tolerance():
    backbone = Tiny()
    backbone.module.double()
    backbone.pixels = backbone.pixels.double()
    encode, noise = backbone.encode, backbone.noise
    backbone.encode = lambda prompts: Conditioning(
        {name: tensor.double() for name, tensor in encode(prompts).tensors.items()}
    )
    backbone.noise = lambda count, **options: noise(count, **options).double()
    exact = dict(tolerance=1e-12, difference_tolerance=1e-7, step=1e-5, guidance=3.0)
    check(backbone, dtype=torch.float64, **exact)
    with pytest.raises(AssertionError, match=r"`noise` must be float32, got torch\.float64"):
        check(backbone)


class GlobalNoise(Tiny):
    def noise(self, count, *, height, width, generator):
        return torch.randn(count, SIZE)


class ConstantNoise(Tiny):
    def noise(self, count, *, height, width, generator):
        return torch.zeros(count, SIZE)


class DoubleNoise(Tiny):
    def noise(self, count, *, height, width, generator):
        return torch.randn(count, SIZE, generator=generator).double()


class RisingSigmas(Tiny):
    def sigmas(self, steps, *, height, width):
        return torch.linspace(0, 1, steps + 1)


class ShortSigmas(Tiny):
    def sigmas(self, steps, *, height, width):
        return torch.linspace(1, 0, steps)


class DriftingSigmas(Tiny):
    calls = 0

    def sigmas(self, steps, *, height, width):
        self.calls += 1
        return super().sigmas(steps, height=height, width=width) ** self.calls


class HalfVelocity(Tiny):
    def velocity(self, conditioning):
        sound = super().velocity(conditioning)
        return lambda x, sigma: sound(x, sigma).bfloat16()


class Dropout(Tiny):
    def velocity(self, conditioning):
        sound = super().velocity(conditioning)
        return lambda x, sigma: nn.functional.dropout(sound(x, sigma))


class MixedBatch(Tiny):
    def velocity(self, conditioning):
        sound = super().velocity(conditioning)
        return lambda x, sigma: sound(x - x.mean(dim=0), sigma)


class Frozen(Tiny):
    def trainable(self):
        for parameter in self.module.parameters():
            parameter.requires_grad_(False)
        return super().trainable()


class Copied(Tiny):
    def trainable(self):
        return {name: nn.Parameter(p.clone()) for name, p in super().trainable().items()}


class NothingToTrain(Tiny):
    def trainable(self):
        return {}


class Detached(Tiny):
    def velocity(self, conditioning):
        sound = super().velocity(conditioning)
        return lambda x, sigma: sound(x, sigma).detach() + 0 * self.module.outer.bias.sum()


class OutOfRange(Tiny):
    def decode(self, latents):
        return 2 * super().decode(latents)


class NoGradientDecode(Tiny):
    def decode(self, latents):
        return super().decode(latents.detach())


class HalfGradientDecode(Tiny):
    def decode(self, latents):
        images = super().decode(latents)
        return images.detach() + 0.5 * (images - images.detach())


class WrongSize(Tiny):
    def decode(self, latents):
        return super().decode(latents)[..., 1:]


class NormalisedDecode(Tiny):
    def decode(self, latents):
        return super().decode(latents / latents.norm())


class StringDevice(Tiny):
    def __init__(self):
        super().__init__()
        self.device = "cpu"


class SavesNothing(Tiny):
    def save(self, folder):
        pass


class SavesHalved(Tiny):
    def save(self, folder):
        self.module.half().float()
        super().save(folder)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (StringDevice, "`device` must be a torch.device, got 'cpu'"),
        (SavesNothing, "`save` must write the model into the folder"),
        (SavesHalved, "`save` must leave the parameters alone, but 'inner.weight'"),
        (GlobalNoise, "`noise` must be a function of its generator"),
        (ConstantNoise, "`noise` must be a function of its generator"),
        (DoubleNoise, "`noise` must be float32"),
        (RisingSigmas, "`sigmas` must fall"),
        (ShortSigmas, r"`sigmas` must have shape \(5,\)"),
        (DriftingSigmas, "`sigmas` must be the same at every call"),
        (HalfVelocity, r"latents' dtype torch.float32, got torch.bfloat16"),
        (Dropout, "deterministic"),
        (MixedBatch, "slices of the conditioning"),
        (Frozen, "must require gradients"),
        (Copied, "must name parameters as `module` does"),
        (NothingToTrain, "at least one parameter"),
        (Detached, "must depend on the trainable parameters"),
        (OutOfRange, r"images in \[0, 1\]"),
        (NoGradientDecode, "differentiable in the latents"),
        (HalfGradientDecode, "gradient of decode"),
        (WrongSize, "`images` must have shape"),
        (NormalisedDecode, "one at a time"),
    ],
)
def test_a_fault_is_found_and_named(broken, message):
    with pytest.raises(AssertionError, match=message):
        check(broken())


def test_what_is_missing_from_the_protocol_is_named():
    sound = Tiny()
    names = ("module", "encode", "noise", "sigmas", "velocity", "decode", "trainable")
    partial = SimpleNamespace(**{name: getattr(sound, name) for name in names})
    with pytest.raises(AssertionError, match="must have device, save, got a SimpleNamespace"):
        check(partial)


def test_noise_is_brought_to_the_device():
    backbone = Tiny()
    backbone.device = torch.device("meta")
    assert check_noise(backbone, 2, 4, 5, 0).device.type == "meta"


def test_what_cannot_be_compared_is_refused():
    with pytest.raises(ValueError, match="got 1 prompts"):
        check_backbone(Tiny(), ["one"], height=4, width=5)
    with pytest.raises(ValueError, match="1 steps"):
        check(Tiny(), steps=1)
