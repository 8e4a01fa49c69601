"""Metrics that no reward gives: diversity, distance from the base model, a judge that answers."""

from __future__ import annotations

from flowbp.metrics.answer import UnreadableAnswer as UnreadableAnswer
from flowbp.metrics.answer import final_score as final_score
from flowbp.metrics.asking import Answering as Answering
from flowbp.metrics.asking import AskedMetric as AskedMetric
from flowbp.metrics.chat_source import load_vision_chat as load_vision_chat
from flowbp.metrics.distance import BaseDistance as BaseDistance
from flowbp.metrics.distance import PixelDistance as PixelDistance
from flowbp.metrics.distance import counterparts as counterparts
from flowbp.metrics.diversity import Diversity as Diversity
from flowbp.metrics.diversity import mean_pairwise_distance as mean_pairwise_distance
from flowbp.metrics.embedding import Embedding as Embedding
from flowbp.metrics.embedding import Points as Points
from flowbp.metrics.embedding import clip_embedding as clip_embedding
from flowbp.metrics.embedding import embedded as embedded
from flowbp.metrics.embedding import embedding_needs as embedding_needs
from flowbp.metrics.unified_reward import UnifiedReward as UnifiedReward
from flowbp.metrics.unified_reward import read_question as read_question
from flowbp.metrics.vision_chat import VisionChat as VisionChat
