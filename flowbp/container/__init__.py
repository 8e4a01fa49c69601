"""The objects of a run, built from its settings; each can be replaced from Python."""

from __future__ import annotations

from flowbp.container.run import RunContainer as RunContainer
