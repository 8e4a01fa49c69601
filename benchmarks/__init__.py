"""Measurements. The commands are `reference`, `counting`, `plots` and `backbones`."""
