"""Regional compilation: every block of a transformer, and the VAE's decoder, with torch.compile."""

from __future__ import annotations

import hashlib
import os
import platform
from collections.abc import Iterator
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from flowbp.adapters.decoder import LatentDecoder
from flowbp.adapters.faster_modules import fuse_gelu, lay_out_channels_last

ACTIVATIONS = 0.5
"""What compiled blocks keep by default: on an H100 half the memory for 8 % more time of a pull."""

CACHE = Path("~/.cache/flowbp/compiled")
"""Where torch keeps what it has compiled, a folder for each kind of machine: a later process reads
it instead of compiling. ``TORCHINDUCTOR_CACHE_DIR`` in the environment names another place."""

_VARIABLE = "TORCHINDUCTOR_CACHE_DIR"

_OWN_GRADIENTS = "autograd_cache_allow_custom_autograd_functions"
"""Whether graphs with a gradient of our own, as attention's, may be read from disk, in newer torch.
Such a gradient is a part of the graph that is looked up."""

_SETTINGS = WeakKeyDictionary[nn.Module, tuple[float, str]]()
"""How each network was compiled."""

_VARIANTS = 64
"""How often one block's code may be compiled: for kinds of blocks, batch sizes, with a graph or
without. torch's own limit is 8, beyond which it goes on uncompiled."""


def compile_backbone(
    backbone: Any, *, activations: float = ACTIVATIONS, backend: str = "inductor"
) -> None:
    """Have a backbone's network, and its decoder if it has one, run compiled, for good.

    The code is compiled when it is first called with a shape, which takes 40 to 100 s on an H100
    for each number of samples at a time, with a graph and without. What was compiled is kept
    on disk, see `CACHE`. Gradient checkpointing, adapters that are attached later, weights that are
    loaded later and the names of parameters are as without. A deep copy is not compiled, and its
    decoder, which is laid out for the compiler, slower than before; save weights, not whole
    modules.

    Args:
        backbone: A `Backbone`, or what wraps one; a decoder other than `LatentDecoder` stays.
        activations: Share of the memory for what a block keeps between its forward and backward
            pass, in [0, 1]; the rest is computed again, what is cheapest first. torch decides
            what that is. 1 keeps all; below 0.5 matrix products are computed again too.
        backend: Of torch.compile.

    Raises:
        ValueError: Its network has no list of blocks, or `activations` is no share.
    """
    if compile_blocks(backbone.module, activations=activations, backend=backend) == 0:
        raise ValueError(
            "`compile` needs a network with a list of blocks (nn.ModuleList), and "
            f"{type(backbone.module).__name__} has none; write compile: false"
        )
    decoder = getattr(backbone, "decoder", None)
    # One of videos decodes frame by frame, with a cache of its own in Python.
    if isinstance(decoder, LatentDecoder) and not decoder.of_videos:
        network = decoder.vae.decoder
        lay_out_channels_last(network)
        network.compile(dynamic=False, backend=_keeping(1.0, backend))


def compile_blocks(
    network: nn.Module, *, activations: float = ACTIVATIONS, backend: str = "inductor"
) -> int:
    """Compile the blocks of a network, each by itself, and count them; alike ones share code."""
    if not 0 <= activations <= 1:
        raise ValueError(
            f"`activations` must be a share in [0, 1], got {activations}; 0.5 keeps half of what "
            "the blocks would, 1 keeps all"
        )
    _prepare()
    fuse_gelu(network)
    _SETTINGS[network] = (activations, backend)
    blocks = blocks_of(network)
    for block in blocks:
        # Shapes that are fixed make faster code, and there are few of them.
        block.compile(dynamic=False, backend=_keeping(activations, backend))
    return len(blocks)


def compile_like(network: nn.Module, other: nn.Module) -> None:
    """Compile the blocks of a network as those of another were, if they were."""
    settings = _SETTINGS.get(other)
    if settings is not None:
        activations, backend = settings
        compile_blocks(network, activations=activations, backend=backend)


def is_compiled(network: nn.Module) -> bool:
    """Whether the blocks of a network were compiled."""
    return any(getattr(part, "_compiled_call_impl", None) for part in network.modules())


def blocks_of(network: nn.Module) -> list[nn.Module]:
    """The blocks of a network: what its lists of modules hold."""
    return [b for part in network.children() if isinstance(part, nn.ModuleList) for b in _in(part)]


def _in(blocks: nn.ModuleList) -> Iterator[nn.Module]:
    for block in blocks:
        if isinstance(block, nn.ModuleList):
            yield from _in(block)
        else:
            yield block


@lru_cache
def _keeping(activations: float, backend: str) -> Any:
    # One object for all blocks: torch compiles anew for every other one. The share is a setting of
    # the whole process in torch, so it is set only while a graph is compiled.
    import torch._functorch.config as functorch

    compile_graph: Any = torch._dynamo.lookup_backend(backend)
    settings: dict[str, Any] = {"activation_memory_budget": activations}
    if hasattr(functorch, _OWN_GRADIENTS):
        settings[_OWN_GRADIENTS] = True

    def compiled(graph: Any, inputs: Any, **options: Any) -> Any:
        with functorch.patch(settings):
            return compile_graph(graph, inputs, **options)

    return compiled


def compiled_graphs() -> tuple[int, int]:
    """How many graphs this process has compiled so far, and how many of them it read from disk."""
    from torch._dynamo.utils import counters

    return counters["stats"]["unique_graphs"], counters["aot_autograd"]["autograd_cache_hit"]


def _prepare() -> None:
    _keep_on_disk()
    import torch._dynamo.config as dynamo
    import torch.compiler.config as compiler

    dynamo.recompile_limit = max(dynamo.recompile_limit, _VARIANTS)
    # torch takes code out of its cache that was written for wider or narrower vectors, which then
    # computes something else: NaN in float64 under ATEN_CPU_CAPABILITY=avx2.
    capability = torch.backends.cpu.get_cpu_capability()
    if capability not in compiler.cache_key_tag:
        compiler.cache_key_tag += capability


def _keep_on_disk() -> None:
    """Have torch keep what it compiles where no restart empties it; torch's default is /tmp."""
    named = os.environ.get(_VARIABLE)
    if named is not None and not _is_default(named):
        return
    # Without a home, or a disk that may be written to, torch's default stays.
    with suppress(OSError, RuntimeError):
        place = CACHE.expanduser() / _machine()
        place.mkdir(parents=True, exist_ok=True)
        if os.access(place, os.W_OK | os.X_OK):
            os.environ[_VARIABLE] = str(place)


def _is_default(place: str) -> bool:
    """Whether it is torch's own choice, which it writes there as soon as it is imported whole."""
    from torch._inductor.runtime.cache_dir_utils import default_cache_dir

    # A user without a name, as some containers have, has no default.
    with suppress(KeyError, OSError):
        return place == default_cache_dir()
    return False


def _machine() -> str:
    """A name for machines that run the same code, as several may have the same home."""
    # What is compiled for the CPU uses all that the CPU can do.
    kinds, facts = ("model name", "flags", "Features", "CPU part"), {platform.machine()}
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        facts |= {line for line in lines if line.split(":")[0].strip() in kinds}
    digest = hashlib.sha256("\n".join(sorted(facts)).encode()).hexdigest()[:12]
    return f"torch-{torch.__version__}-{digest}"
