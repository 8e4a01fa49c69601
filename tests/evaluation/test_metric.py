from __future__ import annotations

from flowbp.evaluation import is_of_sets


def test_metrics_of_sets_are_known_by_their_arguments():
    assert is_of_sets(lambda model, base: {})
    assert not is_of_sets(lambda images, prompts: {})
