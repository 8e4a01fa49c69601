"""The named methods: short frozen values whose `draw` returns the plan of one training step."""

from .active import ActiveDraw as ActiveDraw
from .active import EveryStep as EveryStep
from .active import FirstSteps as FirstSteps
from .active import LateBiased as LateBiased
from .drtune import DRTune as DRTune
from .leaps import Lagrange as Lagrange
from .leaps import LeapAlign as LeapAlign
from .method import Activated as Activated
from .method import Method as Method
from .method import Scaled as Scaled
from .one_step import DRaFTLV as DRaFTLV
from .one_step import ReFL as ReFL
from .subsets import Bridge as Bridge
from .subsets import DRaFT as DRaFT
from .subsets import Sparse as Sparse
from .variant import Variant as Variant
