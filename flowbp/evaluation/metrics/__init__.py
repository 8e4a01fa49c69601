"""Metrics that no reward gives: diversity, distance from the base model, a judge that answers."""

from __future__ import annotations

from flowbp.evaluation.metrics.distance import BaseDistance as BaseDistance
from flowbp.evaluation.metrics.distance import PixelDistance as PixelDistance
from flowbp.evaluation.metrics.distance import counterparts as counterparts
from flowbp.evaluation.metrics.diversity import Diversity as Diversity
from flowbp.evaluation.metrics.diversity import mean_pairwise_distance as mean_pairwise_distance
from flowbp.evaluation.metrics.embedding import Embedding as Embedding
from flowbp.evaluation.metrics.embedding import Points as Points
from flowbp.evaluation.metrics.embedding import clip_embedding as clip_embedding
from flowbp.evaluation.metrics.embedding import embedded as embedded
from flowbp.evaluation.metrics.embedding import embedding_needs as embedding_needs
from flowbp.evaluation.metrics.unified_reward import Answering as Answering
from flowbp.evaluation.metrics.unified_reward import AskedMetric as AskedMetric
from flowbp.evaluation.metrics.unified_reward import UnifiedReward as UnifiedReward
from flowbp.evaluation.metrics.unified_reward import UnreadableAnswer as UnreadableAnswer
from flowbp.evaluation.metrics.unified_reward import final_score as final_score
from flowbp.evaluation.metrics.unified_reward import read_question as read_question
from flowbp.evaluation.metrics.vision_chat import VisionChat as VisionChat
from flowbp.evaluation.metrics.vision_chat import load_vision_chat as load_vision_chat
