"""GenEval on transformers alone: whether a picture shows what its prompt asks for."""

from __future__ import annotations

from flowbp.evaluation.metrics.geneval.criteria import Detection as Detection
from flowbp.evaluation.metrics.geneval.criteria import Detector as Detector
from flowbp.evaluation.metrics.geneval.criteria import failures as failures
from flowbp.evaluation.metrics.geneval.criteria import relations as relations
from flowbp.evaluation.metrics.geneval.criteria import select as select
from flowbp.evaluation.metrics.geneval.detector import Mask2Former as Mask2Former
from flowbp.evaluation.metrics.geneval.detector import Sizes as Sizes
from flowbp.evaluation.metrics.geneval.detector import instances as instances
from flowbp.evaluation.metrics.geneval.detector import prepare as prepare
from flowbp.evaluation.metrics.geneval.metric import LABEL as LABEL
from flowbp.evaluation.metrics.geneval.metric import Colours as Colours
from flowbp.evaluation.metrics.geneval.metric import GenEval as GenEval
from flowbp.evaluation.metrics.geneval.metric import TaskMetric as TaskMetric
from flowbp.evaluation.metrics.geneval.metric import column_name as column_name
from flowbp.evaluation.metrics.geneval.metric import cut_out as cut_out
from flowbp.evaluation.metrics.geneval.task import CLASSES as CLASSES
from flowbp.evaluation.metrics.geneval.task import COLOURS as COLOURS
from flowbp.evaluation.metrics.geneval.task import RELATIONS as RELATIONS
from flowbp.evaluation.metrics.geneval.task import TASKS as TASKS
from flowbp.evaluation.metrics.geneval.task import GenEvalHeldOut as GenEvalHeldOut
from flowbp.evaluation.metrics.geneval.task import Task as Task
from flowbp.evaluation.metrics.geneval.task import Wanted as Wanted
from flowbp.evaluation.metrics.geneval.task import parse_task as parse_task
from flowbp.evaluation.metrics.geneval.task import read_tasks as read_tasks
