"""What a run ran on: the facts that one needs to run it again."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version

import torch

PACKAGES = ("flowbp", "torch", "diffusers", "transformers", "peft")


def environment(
    device: torch.device, seed: int, *, packages: Sequence[str] = PACKAGES
) -> dict[str, str]:
    """Versions, threads, device and seed, as text. Names of machines and of users are not in it.

    Args:
        device: where the model ran.
        seed: the run's seed.
        packages: distributions whose versions to give; those that are not installed are said to be
            so.

    Returns:
        A mapping from what to which.

    Example:
        >>> environment(torch.device("cpu"), 7, packages=[])["seed"]
        '7'
    """
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine()
    return {
        "seed": str(seed),
        "device": f"{device} ({name})",
        "threads": str(torch.get_num_threads()),
        "python": platform.python_version(),
        "system": platform.system(),
        **{package: _version(package) for package in packages},
    }


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
