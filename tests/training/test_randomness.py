"""Random streams and the prompts drawn from one of them."""

from __future__ import annotations

from itertools import islice

import pytest
import torch

from flowbp.training import PromptList, Streams, generator


def draw(source: torch.Generator) -> list[float]:
    return torch.randn(4, generator=source).tolist()


def test_generator_is_a_function_of_seed_and_name() -> None:
    assert draw(generator(5, "noise")) == draw(generator(5, "noise"))
    streams = [(seed, name) for seed in (0, 1, 12, 2**40) for name in ("noise", "plan", "2/noise")]
    assert len({tuple(draw(generator(*stream))) for stream in streams}) == len(streams)


def test_generator_is_the_same_on_every_machine() -> None:
    assert generator(0, "noise").initial_seed() == 5127903134280592399


def test_streams_are_independent() -> None:
    first, second = Streams.of(3), Streams.of(3)
    draw(first.noise)
    assert draw(first.surrogate) == draw(second.surrogate)
    assert draw(first.copies) != draw(first.surrogate)


def test_a_seed_gives_the_streams_that_it_gave_to_earlier_versions() -> None:
    streams = Streams.of(3)
    assert streams.surrogate.initial_seed() == generator(3, "plan").initial_seed()
    assert streams.copies.initial_seed() == generator(3, "copies").initial_seed()


def test_every_epoch_is_a_new_permutation() -> None:
    texts = [f"prompt {i}" for i in range(20)]
    stream = PromptList(texts).stream(generator(0, "prompts"))
    epochs = [list(islice(stream, 20)) for _ in range(3)]
    assert all(sorted(epoch) == sorted(texts) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


def test_same_generator_same_prompts() -> None:
    source = PromptList(["a", "b", "c"])
    first, again, other = (list(islice(source.stream(generator(s, "p")), 30)) for s in (0, 0, 1))
    assert first == again != other


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        ([], "`texts` must hold at least one prompt, got none"),
        (["a", " \t"], r"`texts` must hold no blank prompts, got ' \\t' at position 1 of 2"),
        ([None], "`texts` must hold no blank prompts, got None at position 0"),
    ],
)
def test_illegal_prompts_are_refused(texts: list, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PromptList(texts)


def test_single_text_is_refused() -> None:
    with pytest.raises(TypeError, match="prompts must be a list of texts, got the single text"):
        PromptList("a circle")
