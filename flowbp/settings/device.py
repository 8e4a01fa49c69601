"""The device that a configuration names."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import attrs
import torch

from flowbp.adapters.attention_kernels import KERNELS
from flowbp.config.tree import Step
from flowbp.training import Launch
from flowbp.training.division import GIB, written_bytes
from flowbp.validators import integer

_GPUS = re.compile(r"(?:([1-9][0-9]{0,3})x)?([0-9]{1,4}(?:\.[0-9]+)?)")


@attrs.frozen
class Gpus:
    """CUDA GPUs of one host that a run is planned for: how many, and the bytes of each.

    Example:
        >>> print(Gpus.of("8x80"))
        8 GPUs of 80.0 GiB each, not looked at
    """

    count: int = attrs.field(validator=integer(1))
    memory: int = attrs.field(validator=integer(1))

    @classmethod
    def of(cls, written: str) -> Gpus:
        """Read the GiB of one, or how many and the GiB of each; ValueError of all else."""
        found = _GPUS.fullmatch(written)
        if found is None or not (memory := int(float(found[2]) * GIB)):
            each = "the GiB of a GPU, or how many GPUs and the GiB of each"
            raise ValueError(f"must be {each}, got {written!r}; write it like 80 or 8x80")
        return cls(int(found[1] or 1), memory)

    def __str__(self) -> str:
        """They in words."""
        s, each = ("s", " each") if self.count > 1 else ("", "")
        return f"{self.count} GPU{s} of {written_bytes(self.memory)}{each}, not looked at"

    def fault_of(self, section: str, name: str) -> Iterator[tuple[tuple[Step, ...], str]]:
        """What is wrong with `section.device` for them."""
        device, path = torch.device("cuda" if name == "auto" else name), (section, "device")
        if device.type != "cuda":
            yield path, f"is {name!r}, and --on is for CUDA; write cuda or auto, or omit --on"
        elif device.index is not None and self.count > 1:
            yield path, f"is {name!r}, and --on names {self.count} GPUs; write cuda or auto"


def chosen_device(name: str) -> torch.device:
    """The device that a name stands for."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    return torch.device(name)


def fault_of_device(section: str, name: str) -> Iterator[tuple[tuple[Step, ...], str]]:
    """What is wrong with `section.device` on this machine: the keys, and the fault."""
    if name == "auto":
        return
    device, path = torch.device(name), (section, "device")
    if device.type == "meta":
        yield path, "is 'meta', on which torch keeps shapes and no numbers; write auto or cpu"
    elif (device.index or 0) >= _count(device.type):
        others = [kind for kind in ("cuda", "mps", "xpu", "npu") if _count(kind)]
        there = ["cpu", *(f"{kind}:{index}" for kind in others for index in range(_count(kind)))]
        seen = f"and torch sees {', '.join(there)} here"
        yield path, f"is {name!r}, {seen}; write one of these, or auto"


def fault_of_attention(
    section: str, name: str, device: str
) -> Iterator[tuple[tuple[Step, ...], str]]:
    """What is wrong with `section.attention` on the device: a kernel of CUDA away from it."""
    kind = chosen_device(device).type
    if name in KERNELS and kind != "cuda":
        fault = f"is {name!r}, a kernel of CUDA, and the device is {kind}; write auto"
        yield (section, "attention"), fault


def fault_of_processes(section: str, name: str) -> Iterator[tuple[tuple[Step, ...], str]]:
    """What is wrong with `section.device` for as many processes as torchrun has started here."""
    launch, path = Launch.of(), (section, "device")
    if launch.size == 1:
        return
    device = chosen_device(name)
    started = f"and torchrun has started {launch.local_size} processes on this machine"
    if device.index is not None:
        yield path, f"is {name!r}, which is one device, {started}; write {device.type} or auto"
    elif device.type not in ("cpu", "cuda"):
        yield path, f"is {name!r}, {started}, which train together on cuda or cpu; write either"
    elif device.type == "cuda" and launch.gpu is None and (seen := _count("cuda")):
        cure = f"start torchrun with --nproc-per-node {seen}"
        yield path, f"is {name!r}, {started}, where torch sees {seen} GPUs; {cure}"


def _count(kind: str) -> int:
    """How many devices of a kind torch can use here."""
    if kind == "cpu":
        return 1
    backend: Any = getattr(torch, kind, None)
    if not hasattr(backend, "device_count"):
        return 0
    if hasattr(backend, "is_available") and not backend.is_available():
        return 0
    # torch.mps says nothing of availability itself.
    absent = kind == "mps" and not torch.backends.mps.is_available()
    return 0 if absent else int(backend.device_count())


def check_device(_: Any, attribute: attrs.Attribute[Any], value: str) -> None:
    """A validator: `auto`, or a device of torch."""
    if value == "auto":
        return
    try:
        torch.device(value)
    except RuntimeError as error:
        raise ValueError(
            f"`{attribute.name}` must be auto, cpu, cuda or another device of torch, got {value!r}"
        ) from error
