"""Prompts for training and evaluation, each process's share, and the cache of their embeddings."""

from __future__ import annotations

from flowbp.prompts.cached_backbone import EMBEDDING_BATCH as EMBEDDING_BATCH
from flowbp.prompts.cached_backbone import CachedBackbone as CachedBackbone
from flowbp.prompts.cached_backbone import cached as cached
from flowbp.prompts.embedding_store import EmbeddingsError as EmbeddingsError
from flowbp.prompts.embedding_store import FolderStore as FolderStore
from flowbp.prompts.embedding_store import MemoryStore as MemoryStore
from flowbp.prompts.embedding_store import Store as Store
from flowbp.prompts.formats import Columns as Columns
from flowbp.prompts.formats import Entry as Entry
from flowbp.prompts.sources import DatasetHeldOut as DatasetHeldOut
from flowbp.prompts.sources import DatasetPrompts as DatasetPrompts
from flowbp.prompts.sources import HeldOutSource as HeldOutSource
from flowbp.prompts.sources import ShapesHeldOut as ShapesHeldOut
from flowbp.prompts.sources import ShapesPrompts as ShapesPrompts
from flowbp.prompts.sources import TableSource as TableSource
from flowbp.prompts.sources import TextHeldOut as TextHeldOut
from flowbp.prompts.sources import TextPrompts as TextPrompts
from flowbp.prompts.table import LeftOut as LeftOut
from flowbp.prompts.table import PromptTable as PromptTable
from flowbp.prompts.table import load_prompts as load_prompts
from flowbp.prompts.table import prompt_table as prompt_table
from flowbp.prompts.table import read_prompts as read_prompts
