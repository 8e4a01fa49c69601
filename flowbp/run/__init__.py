"""The command line: one run from YAML, with its evaluation, pictures and report."""

from __future__ import annotations

from flowbp.run.command import main as main
