"""Regional compilation: every block of a transformer, and the VAE's decoder, with torch.compile."""

from __future__ import annotations

from typing import Any

from torch import nn

_VARIANTS = 64
"""How often one block's code may be compiled: for kinds of blocks, batch sizes, with a graph or
without. torch's own limit is 8, beyond which it goes on uncompiled."""


def compile_backbone(backbone: Any, *, backend: str = "inductor") -> None:
    """Have a backbone's network, and its decoder where it has one, run compiled.

    The code is compiled when it is first called with a shape, which takes about half a minute for
    each number of samples at a time, with a graph and without; torch keeps what it compiled on
    disk. Gradient checkpointing, adapters that are attached later, weights that are loaded later
    and the names of parameters are as without.

    Args:
        backbone: A `Backbone`, or what wraps one. Its blocks are compiled in place, for good.
        backend: Of torch.compile.

    Raises:
        ValueError: Its network has no list of blocks.

    Example:
        >>> from types import SimpleNamespace
        >>> compile_backbone(SimpleNamespace(module=nn.Linear(1, 1)))
        Traceback (most recent call last):
            ...
        ValueError: `compile` needs a network with a list of blocks (nn.ModuleList), and Linear \
has none; write compile: false
    """
    _prepare()
    if compile_blocks(backbone.module, backend=backend) == 0:
        raise ValueError(
            "`compile` needs a network with a list of blocks (nn.ModuleList), and "
            f"{type(backbone.module).__name__} has none; write compile: false"
        )
    decoder = getattr(backbone, "decoder", None)
    if decoder is not None:
        decoder.vae.decoder.compile(dynamic=False, backend=backend)


def compile_blocks(network: nn.Module, *, backend: str = "inductor") -> int:
    """Compile the blocks of a network, each by itself: alike ones share what is compiled.

    Args:
        network: One whose blocks stand in lists.
        backend: Of torch.compile.

    Returns:
        How many there are.

    Example:
        >>> network = nn.Module()
        >>> network.blocks = nn.ModuleList([nn.Identity(), nn.Identity()])
        >>> compile_blocks(network)
        2
    """
    lists = [part for part in network.children() if isinstance(part, nn.ModuleList)]
    blocks = [block for part in lists for block in part]
    for block in blocks:
        # Shapes that are fixed make faster code, and there are few of them.
        block.compile(dynamic=False, backend=backend)
    return len(blocks)


def is_compiled(network: nn.Module) -> bool:
    """Whether the blocks of a network were compiled.

    Args:
        network: Any.

    Example:
        >>> is_compiled(nn.Linear(1, 1))
        False
    """
    return any(getattr(part, "_compiled_call_impl", None) for part in network.modules())


def _prepare() -> None:
    import torch._dynamo.config as dynamo

    dynamo.recompile_limit = max(dynamo.recompile_limit, _VARIANTS)
