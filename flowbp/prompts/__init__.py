"""Prompts of files and data sets: reading, what is left out, and each process's share."""

from __future__ import annotations

from flowbp.prompts.entries import Columns as Columns
from flowbp.prompts.entries import Entry as Entry
from flowbp.prompts.hub import load_prompts as load_prompts
from flowbp.prompts.reading import LeftOut as LeftOut
from flowbp.prompts.reading import PromptTable as PromptTable
from flowbp.prompts.reading import prompt_table as prompt_table
from flowbp.prompts.reading import read_prompts as read_prompts
from flowbp.prompts.sharding import Shard as Shard
from flowbp.prompts.sharding import ShardedPrompts as ShardedPrompts
from flowbp.prompts.sources import DatasetHeldOut as DatasetHeldOut
from flowbp.prompts.sources import DatasetPrompts as DatasetPrompts
from flowbp.prompts.sources import Listed as Listed
from flowbp.prompts.sources import TextHeldOut as TextHeldOut
from flowbp.prompts.sources import TextPrompts as TextPrompts
