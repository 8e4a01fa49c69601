"""Text embeddings that are computed once: their identity, where they are kept, and the cache."""

from __future__ import annotations

from flowbp.embeddings.caching import BATCH as BATCH
from flowbp.embeddings.caching import CachedBackbone as CachedBackbone
from flowbp.embeddings.caching import cached as cached
from flowbp.embeddings.identity import identity as identity
from flowbp.embeddings.stores import EmbeddingsError as EmbeddingsError
from flowbp.embeddings.stores import FolderStore as FolderStore
from flowbp.embeddings.stores import MemoryStore as MemoryStore
from flowbp.embeddings.stores import Store as Store
