"""Stand-ins for a GPU, for tests without one."""

from __future__ import annotations

import torch


class OnADevice(torch.Tensor):
    """Says that it lies on a GPU."""

    is_cuda = True
