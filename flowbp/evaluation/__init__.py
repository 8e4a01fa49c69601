"""Before and after: sample held-out prompts from the same noise, score, judge, compare, report."""

from __future__ import annotations

from flowbp.evaluation.curves import Chart as Chart
from flowbp.evaluation.curves import Curve as Curve
from flowbp.evaluation.curves import training_charts as training_charts
from flowbp.evaluation.environment import environment as environment
from flowbp.evaluation.evaluate import HeldOut as HeldOut
from flowbp.evaluation.evaluate import HeldOutPrompt as HeldOutPrompt
from flowbp.evaluation.evaluate import Judge as Judge
from flowbp.evaluation.evaluate import evaluate as evaluate
from flowbp.evaluation.examples import Examples as Examples
from flowbp.evaluation.examples import Outcomes as Outcomes
from flowbp.evaluation.examples import choose_examples as choose_examples
from flowbp.evaluation.examples import count_outcomes as count_outcomes
from flowbp.evaluation.generate import Progress as Progress
from flowbp.evaluation.generate import Sampling as Sampling
from flowbp.evaluation.generate import generate as generate
from flowbp.evaluation.generate import generate_batches as generate_batches
from flowbp.evaluation.generate import noise_generator as noise_generator
from flowbp.evaluation.metric import JudgeMetric as JudgeMetric
from flowbp.evaluation.metric import Metric as Metric
from flowbp.evaluation.metric import RewardMetric as RewardMetric
from flowbp.evaluation.pictures import data_uri as data_uri
from flowbp.evaluation.pictures import grid as grid
from flowbp.evaluation.pictures import png as png
from flowbp.evaluation.pictures import upscale as upscale
from flowbp.evaluation.records import Comparison as Comparison
from flowbp.evaluation.records import Evaluation as Evaluation
from flowbp.evaluation.records import Pair as Pair
from flowbp.evaluation.records import Record as Record
from flowbp.evaluation.report import Report as Report
from flowbp.evaluation.report import render as render
from flowbp.evaluation.report import write_report as write_report
from flowbp.evaluation.storage import evaluation_from_json as evaluation_from_json
from flowbp.evaluation.storage import evaluation_to_json as evaluation_to_json
from flowbp.evaluation.storage import from_json as from_json
from flowbp.evaluation.storage import to_json as to_json
from flowbp.evaluation.summary import Change as Change
from flowbp.evaluation.summary import Gain as Gain
from flowbp.evaluation.summary import Row as Row
from flowbp.evaluation.summary import Summary as Summary
from flowbp.evaluation.summary import bootstrap_gain as bootstrap_gain
from flowbp.evaluation.summary import summarise as summarise
from flowbp.evaluation.table import table as table
