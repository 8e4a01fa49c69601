"""What a run can be told: the schema of its YAML, the names in it, and the checks across it."""

from __future__ import annotations

from flowbp.settings.changes import STEPS as STEPS
from flowbp.settings.changes import Change as Change
from flowbp.settings.changes import changes as changes
from flowbp.settings.changes import identity as identity
from flowbp.settings.changes import tree_of_settings as tree_of_settings
from flowbp.settings.checks import LOCK as LOCK
from flowbp.settings.checks import free_folder as free_folder
from flowbp.settings.checks import occupied as occupied
from flowbp.settings.devices import chosen_device as chosen_device
from flowbp.settings.evaluation import EarlyStopSettings as EarlyStopSettings
from flowbp.settings.evaluation import EvaluationSettings as EvaluationSettings
from flowbp.settings.loading import Loaded as Loaded
from flowbp.settings.loading import load as load
from flowbp.settings.loading import located as located
from flowbp.settings.loading import resolved as resolved
from flowbp.settings.metrics import built_metric as built_metric
from flowbp.settings.metrics import judge_metric as judge_metric
from flowbp.settings.metrics import reward_metric as reward_metric
from flowbp.settings.presets import preset_listing as preset_listing
from flowbp.settings.presets import preset_or_file as preset_or_file
from flowbp.settings.presets import presets as presets
from flowbp.settings.prompts import HeldOutSource as HeldOutSource
from flowbp.settings.prompts import ShapesHeldOut as ShapesHeldOut
from flowbp.settings.prompts import ShapesPrompts as ShapesPrompts
from flowbp.settings.registries import METRICS as METRICS
from flowbp.settings.registries import REGISTRIES as REGISTRIES
from flowbp.settings.registries import REWARDS as REWARDS
from flowbp.settings.registries import SCALARS as SCALARS
from flowbp.settings.rewards import CalibrationSettings as CalibrationSettings
from flowbp.settings.rewards import PartSettings as PartSettings
from flowbp.settings.rewards import weighted_reward as weighted_reward
from flowbp.settings.running import RunSettings as RunSettings
from flowbp.settings.schema import AnchorSettings as AnchorSettings
from flowbp.settings.schema import CheckpointSettings as CheckpointSettings
from flowbp.settings.schema import EmbeddingSettings as EmbeddingSettings
from flowbp.settings.schema import ObserverSettings as ObserverSettings
from flowbp.settings.schema import SampleSettings as SampleSettings
from flowbp.settings.schema import Settings as Settings
from flowbp.settings.schema import TrainingSettings as TrainingSettings
from flowbp.settings.set_metrics import PointsByEmbedding as PointsByEmbedding
