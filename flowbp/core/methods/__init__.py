"""The named methods: short frozen values whose `draw` returns a training step's surrogate."""

from .bridge import Bridge
from .draft import DRaFT
from .draft_lv import DRaFTLV
from .drtune import DRTune
from .lagrange import Lagrange
from .leap_align import LeapAlign
from .method import Activated, Method, Scaled, draw_surrogate
from .refl import ReFL
from .sparse import Sparse
from .variant import Variant

__all__ = [
    "Activated",
    "Bridge",
    "DRTune",
    "DRaFT",
    "DRaFTLV",
    "Lagrange",
    "LeapAlign",
    "Method",
    "ReFL",
    "Scaled",
    "Sparse",
    "Variant",
    "draw_surrogate",
]
