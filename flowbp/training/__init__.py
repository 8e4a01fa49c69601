"""Training: the streamed step, the loop around it, and what watches and saves it."""

from __future__ import annotations

from flowbp.training.checkpoint import CheckpointError as CheckpointError
from flowbp.training.checkpoint import Savable as Savable
from flowbp.training.checkpoint import recover as recover
from flowbp.training.checkpoint import save_checkpoint as save_checkpoint
from flowbp.training.checkpoints import Checkpoints as Checkpoints
from flowbp.training.checkpoints import check_retention as check_retention
from flowbp.training.cost import Cost as Cost
from flowbp.training.cost import cost as cost
from flowbp.training.cotangent import Scorer as Scorer
from flowbp.training.cotangent import Scores as Scores
from flowbp.training.cotangent import score as score
from flowbp.training.ema import Averaging as Averaging
from flowbp.training.ema import MovingAverage as MovingAverage
from flowbp.training.feed import PromptFeed as PromptFeed
from flowbp.training.inspection import Saved as Saved
from flowbp.training.inspection import newest_checkpoint as newest_checkpoint
from flowbp.training.inspection import saved_checkpoints as saved_checkpoints
from flowbp.training.metrics import Metrics as Metrics
from flowbp.training.nonfinite import NonFiniteError as NonFiniteError
from flowbp.training.observers import JsonLines as JsonLines
from flowbp.training.observers import Observer as Observer
from flowbp.training.observers import ResumableObserver as ResumableObserver
from flowbp.training.optimization import AdamW as AdamW
from flowbp.training.optimization import OptimizerRecipe as OptimizerRecipe
from flowbp.training.optimization import clip_gradients as clip_gradients
from flowbp.training.optimization import gradient_norm as gradient_norm
from flowbp.training.progress import Progress as Progress
from flowbp.training.prompts import PromptList as PromptList
from flowbp.training.prompts import PromptSource as PromptSource
from flowbp.training.randomness import Streams as Streams
from flowbp.training.randomness import generator as generator
from flowbp.training.retention import BEST as BEST
from flowbp.training.sample_grids import SampleGrids as SampleGrids
from flowbp.training.sampling import Batching as Batching
from flowbp.training.sampling import Sampling as Sampling
from flowbp.training.schedule import Constant as Constant
from flowbp.training.schedule import CosineDecay as CosineDecay
from flowbp.training.schedule import LinearDecay as LinearDecay
from flowbp.training.schedule import Schedule as Schedule
from flowbp.training.snapshots import Snapshots as Snapshots
from flowbp.training.step import StepResult as StepResult
from flowbp.training.step import TrainingStep as TrainingStep
from flowbp.training.tensorboard import TensorBoard as TensorBoard
from flowbp.training.trainer import Trainer as Trainer
