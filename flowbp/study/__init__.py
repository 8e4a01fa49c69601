"""Methods against each other: what one step of each gains, and training runs at equal cost."""

from __future__ import annotations

from flowbp.study.agreement import Agreement as Agreement
from flowbp.study.agreement import GradientSums as GradientSums
from flowbp.study.ascent import Ascent as Ascent
from flowbp.study.ascent import AscentSettings as AscentSettings
from flowbp.study.ascent import measure_ascent as measure_ascent
from flowbp.study.comparison import Standing as Standing
from flowbp.study.comparison import standings as standings
from flowbp.study.cost import CostWeights as CostWeights
from flowbp.study.cost import measure_weights as measure_weights
from flowbp.study.directions import Adam as Adam
from flowbp.study.summary import AscentSummary as AscentSummary
from flowbp.study.summary import summarized as summarized
