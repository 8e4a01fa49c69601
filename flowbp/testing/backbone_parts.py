"""What a backbone states, draws and writes, checked without a velocity."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from flowbp.adapters import Backbone

from .comparing import assert_finite, assert_same_shape


def check_protocol(backbone: Backbone) -> None:
    """Assert that every attribute and method of the protocol is there."""
    if not isinstance(backbone, Backbone):
        names = [name for name in vars(Backbone) if not name.startswith("_")]
        missing = [name for name in names if not hasattr(backbone, name)]
        raise AssertionError(
            f"a backbone must have {', '.join(missing)}, got a {type(backbone).__name__} without; "
            "see flowbp.adapters.Backbone"
        )
    if not isinstance(backbone.device, torch.device):
        raise AssertionError(
            f"`device` must be a torch.device, got {backbone.device!r}; wrap it in torch.device(…)"
        )


def check_saving(backbone: Backbone) -> None:
    """Assert that saving into an empty folder writes something and changes no parameter."""
    before = {name: p.detach().clone() for name, p in backbone.trainable().items()}
    with TemporaryDirectory() as name:
        folder = Path(name)
        backbone.save(folder)
        if not any(path.is_file() and path.stat().st_size for path in folder.rglob("*")):
            raise AssertionError(
                "`save` must write the model into the folder it is given, got no file there"
            )
    after = backbone.trainable()
    changed = [n for n, p in before.items() if n not in after or not torch.equal(after[n], p)]
    if changed:
        raise AssertionError(f"`save` must leave the parameters alone, but {changed[0]!r} changed")


def check_noise(
    backbone: Backbone,
    count: int,
    height: int,
    width: int,
    seed: int,
    *,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Assert that noise is a function of its generator, of this dtype; returned on the device."""

    def draw(number: int) -> Tensor:
        generator = torch.Generator().manual_seed(number)
        return backbone.noise(count, height=height, width=width, generator=generator)

    state = torch.random.get_rng_state()
    noise, again, other = draw(seed), draw(seed), draw(seed + 1)
    if noise.ndim < 1 or noise.shape[0] != count:
        raise AssertionError(f"`noise` must hold {count} samples, got shape {tuple(noise.shape)}")
    if noise.dtype != dtype:
        wanted = str(dtype).removeprefix("torch.")
        raise AssertionError(f"`noise` must be {wanted}, got {noise.dtype}")
    if not torch.equal(noise, again) or torch.equal(noise, other):
        raise AssertionError("`noise` must be a function of its generator, and of nothing else")
    if not torch.equal(torch.random.get_rng_state(), state):
        raise AssertionError("`noise` must use its generator only, but it advanced torch's own")
    assert_finite("noise", noise)
    return noise.to(backbone.device)


def check_sigmas(backbone: Backbone, steps: int, height: int, width: int) -> Tensor:
    """Assert that sigmas (N+1,) are a falling float32 grid on the CPU, at every call the same."""
    sigmas, again = (backbone.sigmas(steps, height=height, width=width) for _ in range(2))
    assert_same_shape("sigmas", sigmas, (steps + 1,))
    if sigmas.dtype != torch.float32 or sigmas.device.type != "cpu":
        raise AssertionError(
            f"`sigmas` must be float32 on the CPU, got {sigmas.dtype} on {sigmas.device}"
        )
    falling = bool((sigmas[1:] < sigmas[:-1]).all())
    if not falling or float(sigmas[0]) > 1 or float(sigmas[-1]) != 0:
        raise AssertionError(
            f"`sigmas` must fall from at most 1 to exactly 0, got {sigmas.tolist()}"
        )
    if not torch.equal(sigmas, again):
        raise AssertionError(
            f"`sigmas` must be the same at every call, got {sigmas.tolist()} and {again.tolist()}"
        )
    return sigmas


def check_trainable(backbone: Backbone) -> None:
    """Assert that what is trained belongs to the module and is unfrozen."""
    owned = dict(backbone.module.named_parameters())
    trainable = backbone.trainable()
    if not trainable:
        raise AssertionError("`trainable` must name at least one parameter, got none")
    for name, parameter in trainable.items():
        if owned.get(name) is not parameter:
            raise AssertionError(
                f"`trainable` must name parameters as `module` does, got {name!r}, which is not "
                "there or another tensor"
            )
        if not parameter.requires_grad:
            raise AssertionError(
                f"`trainable` parameters must require gradients, {name!r} does not"
            )
