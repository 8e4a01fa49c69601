"""GenEval on transformers alone: whether a picture shows what its prompt asks for."""

from __future__ import annotations

from flowbp.geneval.colours import Colours as Colours
from flowbp.geneval.colours import cut_out as cut_out
from flowbp.geneval.criteria import failures as failures
from flowbp.geneval.detector import Mask2Former as Mask2Former
from flowbp.geneval.geometry import relations as relations
from flowbp.geneval.instances import Sizes as Sizes
from flowbp.geneval.instances import instances as instances
from flowbp.geneval.metadata import GenEvalHeldOut as GenEvalHeldOut
from flowbp.geneval.metadata import parse_task as parse_task
from flowbp.geneval.metadata import read_tasks as read_tasks
from flowbp.geneval.metric import LABEL as LABEL
from flowbp.geneval.metric import TaskMetric as TaskMetric
from flowbp.geneval.metric import column_name as column_name
from flowbp.geneval.preparation import prepare as prepare
from flowbp.geneval.published import GenEval as GenEval
from flowbp.geneval.scene import Detection as Detection
from flowbp.geneval.scene import Detector as Detector
from flowbp.geneval.scene import select as select
from flowbp.geneval.task import Task as Task
from flowbp.geneval.task import Wanted as Wanted
from flowbp.geneval.vocabulary import CLASSES as CLASSES
from flowbp.geneval.vocabulary import COLOURS as COLOURS
from flowbp.geneval.vocabulary import RELATIONS as RELATIONS
from flowbp.geneval.vocabulary import TASKS as TASKS
