"""The named methods: short frozen values whose `draw` returns the plan of one training step."""

from .drtune import DRTune as DRTune
from .leaps import Lagrange as Lagrange
from .leaps import LeapAlign as LeapAlign
from .method import Method as Method
from .one_step import DRaFTLV as DRaFTLV
from .one_step import ReFL as ReFL
from .subsets import Bridge as Bridge
from .subsets import DRaFT as DRaFT
from .subsets import Sparse as Sparse
from .variant import ActiveDraw as ActiveDraw
from .variant import EveryStep as EveryStep
from .variant import FirstSteps as FirstSteps
from .variant import LateBiased as LateBiased
from .variant import Variant as Variant
