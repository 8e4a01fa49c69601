"""The command line: several models on the same prompts and noise, measured by name."""

from __future__ import annotations

from flowbp.evaluate.command import main as main
