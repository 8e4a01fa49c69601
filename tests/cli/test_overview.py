"""Clauses of the overviews: grids and embeddings."""

from __future__ import annotations

from flowbp.adapters import EvenGrid
from flowbp.cli.overview import embeddings_text, grid_text, words
from flowbp.evaluation import Sampling
from flowbp.settings import EmbeddingSettings


def test_a_grid_is_described_with_its_last_sigma():
    sampling = Sampling(steps=25, height=8, width=8, grid=EvenGrid(shift=3.0))
    assert grid_text(sampling) == " on the grid even (shift 3.0), last sigma 0.1111"
    assert grid_text(Sampling(steps=25, height=8, width=8)) == " on the model's own grid"


def test_embeddings_are_described():
    text = embeddings_text(EmbeddingSettings(folder=None))
    assert text == "in memory, prompts encoded one at a time"


def test_values_are_described_in_a_line():
    assert (
        words({"name": "lora", "rank": 4, "layers": ["a", "b"]}) == "lora (rank 4, layers [a, b])"
    )
    assert words({"decay": 0.5}) == "(decay 0.5)" and words(None) == "none"
