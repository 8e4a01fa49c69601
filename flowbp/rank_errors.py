"""What ends a process of a run for the sake of the others; no component is to blame for it."""

from __future__ import annotations


class RankEndedError(RuntimeError):
    """Another process of the run has ended, and this one cannot go on alone."""


class RanksDifferError(RuntimeError):
    """The processes of a run do not hold the same model, or not the same settings."""
