"""GenEval on transformers alone: whether a picture shows what its prompt asks for."""

from __future__ import annotations

from flowbp.evaluation.metrics.geneval.metric import GenEval as GenEval
from flowbp.evaluation.metrics.geneval.task import GenEvalHeldOut as GenEvalHeldOut
