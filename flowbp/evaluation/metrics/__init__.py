"""Metrics that no reward gives: diversity, distance from the base model, a judge that answers."""

from __future__ import annotations

from flowbp.evaluation.metrics.distance import BaseDistance as BaseDistance
from flowbp.evaluation.metrics.distance import Diversity as Diversity
from flowbp.evaluation.metrics.distance import PixelDistance as PixelDistance
from flowbp.evaluation.metrics.embedding import Embedding as Embedding
from flowbp.evaluation.metrics.embedding import Points as Points
from flowbp.evaluation.metrics.embedding import clip_embedding as clip_embedding
from flowbp.evaluation.metrics.ppocr import PPOCR as PPOCR
from flowbp.evaluation.metrics.ppocr import PPOCRJudge as PPOCRJudge
from flowbp.evaluation.metrics.unified_reward import UnifiedReward as UnifiedReward
