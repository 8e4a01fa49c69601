"""What a run can say: the schema of its YAML, the names in it, its checks and its container."""

from __future__ import annotations

from flowbp.settings.container import RunContainer as RunContainer
from flowbp.settings.device import chosen_device as chosen_device
from flowbp.settings.folder import LOCK as LOCK
from flowbp.settings.folder import REHEARSAL as REHEARSAL
from flowbp.settings.folder import free_folder as free_folder
from flowbp.settings.folder import occupied as occupied
from flowbp.settings.loader import Loaded as Loaded
from flowbp.settings.loader import load as load
from flowbp.settings.loader import located as located
from flowbp.settings.loader import preset_listing as preset_listing
from flowbp.settings.loader import preset_or_file as preset_or_file
from flowbp.settings.loader import presets as presets
from flowbp.settings.loader import resolved as resolved
from flowbp.settings.loader import resolved_values as resolved_values
from flowbp.settings.metric_factories import PointsByEmbedding as PointsByEmbedding
from flowbp.settings.metric_factories import built_judge as built_judge
from flowbp.settings.metric_factories import built_metric as built_metric
from flowbp.settings.registries import METRICS as METRICS
from flowbp.settings.registries import REGISTRIES as REGISTRIES
from flowbp.settings.registries import SCALARS as SCALARS
from flowbp.settings.run_identity import SOURCES as SOURCES
from flowbp.settings.run_identity import STEPS as STEPS
from flowbp.settings.run_identity import Change as Change
from flowbp.settings.run_identity import Source as Source
from flowbp.settings.run_identity import changes as changes
from flowbp.settings.run_identity import decisive as decisive
from flowbp.settings.run_identity import identity as identity
from flowbp.settings.run_identity import read_sources as read_sources
from flowbp.settings.run_identity import source_at as source_at
from flowbp.settings.run_identity import sources_of as sources_of
from flowbp.settings.run_identity import write_sources as write_sources
from flowbp.settings.schema import EmbeddingSettings as EmbeddingSettings
from flowbp.settings.schema import RunSettings as RunSettings
from flowbp.settings.schema import Settings as Settings
from flowbp.settings.weighted_reward import weighted_reward as weighted_reward
