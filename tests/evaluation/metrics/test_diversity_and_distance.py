"""Diversity and distance from the base against sums written out pair by pair."""

from __future__ import annotations

import itertools
import math

import attrs
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from flowbp.evaluation import HeldOutPrompt, PictureSet
from flowbp.evaluation.metrics import BaseDistance, Diversity, PixelDistance, Points, clip_embedding
from flowbp.evaluation.metrics.distance import counterparts, mean_pairwise_distance
from flowbp.evaluation.metrics.embedding import embedded, embedding_needs
from flowbp.evaluation.metrics.geneval.detector import HUB_ID, detector_needs
from flowbp.evaluation.metrics.vision_chat import chat_needs
from flowbp.shapes.embedded import reward_folder


def means(images):
    """Nine numbers of a picture."""
    return torch.cat([images.mean((2, 3)), images[:, :, 0, 0], images.amax((2, 3))], 1)


def pictures(prompts, seeds, *, seed=0, label="mine"):
    """Every prompt from every seed, the prompts of a seed together."""
    generator = torch.Generator().manual_seed(seed)
    count = len(prompts) * len(seeds)
    return PictureSet(
        label=label,
        prompts=[HeldOutPrompt(text) for _ in seeds for text in prompts],
        numbers=[number for _ in seeds for number in range(len(prompts))],
        seeds=[each for each in seeds for _ in prompts],
        pictures=torch.rand(count, 3, 6, 5, generator=generator),
    )


def one_minus_cosine(a, b):
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    lengths = math.sqrt(sum(x * x for x in a)) * math.sqrt(sum(y * y for y in b))
    return 1 - dot / lengths


@given(st.integers(2, 6), st.integers(1, 4), st.integers(0, 1000))
def test_diversity_is_the_mean_over_pairs(seeds, prompts, seed):
    texts = [f"prompt {number}" for number in range(prompts)]
    own = pictures(texts, range(seeds), seed=seed)
    column = Diversity(embedding=means, batch=3)(own, own)["diversity"]
    points = means(own.pictures.double()).tolist()
    for number, text in enumerate(texts):
        group = [p for p, prompt in zip(points, own.prompts, strict=True) if prompt.text == text]
        pairs = [one_minus_cosine(a, b) for a, b in itertools.combinations(group, 2)]
        assert float(column[number]) == pytest.approx(sum(pairs) / len(pairs), abs=1e-6)
    assert column[prompts:].isnan().all()


def test_a_collapse_has_no_diversity():
    own = pictures(["a", "b"], range(4))
    collapsed = attrs.evolve(own, pictures=own.pictures[:2].repeat(4, 1, 1, 1))
    metric = Diversity(embedding=means)
    assert metric(collapsed, own)["diversity"].nan_to_num().eq(0).all()
    assert metric(own, own)["diversity"][:2].gt(1e-3).all()


def test_a_prompt_of_one_picture_has_no_diversity_and_only_such_are_refused():
    own = pictures(["a", "b"], range(2))
    three = attrs.evolve(
        own, prompts=own.prompts[:3], numbers=[0, 1, 0], seeds=[0, 0, 1], pictures=own.pictures[:3]
    )
    column = Diversity(embedding=means)(three, three)["diversity"]
    assert column.isnan().tolist() == [False, True, True]
    with pytest.raises(ValueError, match="`diversity` needs several pictures of a prompt"):
        Diversity(embedding=means)(pictures(["a", "b"], [0]), own)
    with pytest.raises(ValueError, match="`points` must be at least 2, got 1"):
        mean_pairwise_distance(torch.ones(1, 2))


@given(st.permutations(range(6)), st.integers(0, 1000))
def test_distances_are_between_pictures_of_the_same_noise(order, seed):
    own, base = pictures("ab", range(3), seed=seed), pictures("ab", range(3), seed=seed + 1)
    # The base in another order, and with more than is asked for.
    shuffled = attrs.evolve(
        base,
        prompts=[base.prompts[i] for i in order],
        numbers=[base.numbers[i] for i in order],
        seeds=[base.seeds[i] for i in order],
        pictures=[base.pictures[i] for i in order],
    )
    column = BaseDistance(embedding=means, batch=4)(own, shuffled)["distance from base"]
    pixels = PixelDistance()(own, shuffled)["pixel distance from base"]
    for i in range(6):
        a, b = (means(p.pictures[i : i + 1].double())[0].tolist() for p in (own, base))
        assert float(column[i]) == pytest.approx(one_minus_cosine(a, b), abs=1e-6)
        x, y = (p.pictures[i].flatten().tolist() for p in (own, base))
        square = sum((u - v) ** 2 for u, v in zip(x, y, strict=True)) / len(x)
        assert float(pixels[i]) == pytest.approx(math.sqrt(square), abs=1e-7)


def test_the_base_is_at_no_distance_from_itself():
    base = pictures("abc", range(2))
    assert BaseDistance(embedding=means)(base, base)["distance from base"].eq(0).all()
    assert PixelDistance()(base, base)["pixel distance from base"].eq(0).all()


def test_a_base_that_lacks_a_picture_is_refused():
    own = pictures("ab", [0, 1])
    with pytest.raises(ValueError, match=r"`base` must hold a picture of 'a' .* from seed 1"):
        counterparts(own, pictures("ab", [0]))
    with pytest.raises(ValueError, match=r"`base` must hold a picture of 'b' .* from seed 0"):
        counterparts(own, pictures("ac", [0, 1]))
    small = attrs.evolve(own, pictures=own.pictures[..., :3])
    with pytest.raises(ValueError, match=r"pictures of \(3, 6, 5\) as the model does, got"):
        PixelDistance()(own, small)


class Files:
    """Pictures that are read when asked for, and remembers how many at a time."""

    def __init__(self, images):
        self.images, self.read = images, 0

    def __len__(self):
        return len(self.images)

    def __getitem__(self, number):
        self.read += 1
        return self.images[number]


def test_pictures_are_read_once_and_embedded_some_at_a_time():
    images, sizes = torch.rand(7, 3, 4, 4), []

    def embedding(batch):
        sizes.append(len(batch))
        return means(batch)

    files = Files(images)
    points = embedded(files, embedding, batch=3)
    assert sizes == [3, 3, 1] and files.read == 7
    assert torch.allclose(points.norm(dim=1), torch.ones(7, dtype=torch.float64))


@pytest.mark.parametrize(
    ("embedding", "told"),
    [
        (lambda images: images.mean((1, 2, 3)), r"must give \(2, D\) for 2 pictures, got \(2,\)"),
        (lambda images: means(images) * 0, "finite points other than 0"),
        (lambda images: means(images) * math.nan, "finite points other than 0"),
    ],
)
def test_embeddings_that_are_none_are_refused(embedding, told):
    own = pictures("a", [0, 1])
    with pytest.raises(ValueError, match=told):
        Diversity(embedding=embedding)(own, own)


def test_a_clip_model_is_an_embedding():
    own, base = pictures("ab", [0, 1]), pictures("ab", [0, 1], seed=1)
    embedding = clip_embedding(source=reward_folder())
    assert Diversity(embedding=embedding)(own, base)["diversity"][:2].gt(0).all()
    assert BaseDistance(embedding=embedding)(own, base)["distance from base"].gt(0).all()


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (dict(seeds=[0, 0]), "`seeds` must differ between pictures of one prompt, got 0 twice"),
        (dict(seeds=[0]), "`seeds` must be as many as the 2 prompts, got 1"),
        (dict(numbers=[0]), "`numbers` must be as many as the 2 prompts, got 1"),
        (dict(pictures=[]), "`pictures` must be as many as the 2 prompts, got 0"),
        (dict(label=""), "`label` must not be empty"),
        (dict(prompts=[]), "`prompts` must not be empty"),
    ],
)
def test_picture_sets_that_make_no_sense_are_refused(change, told):
    with pytest.raises(ValueError, match=told):
        attrs.evolve(pictures("a", [0, 1]), **change)


def test_pictures_are_embedded_once_whatever_asks():
    counts = []

    def embedding(images):
        counts.append(len(images))
        return means(images)

    base, *others = (pictures("ab", [0, 1], seed=seed) for seed in range(3))
    points = Points()
    near = BaseDistance(embedding=embedding, batch=3, points=points)
    spread = Diversity(embedding=embedding, batch=3, points=points)
    alone = BaseDistance(embedding=means, batch=3)
    for model in (base, *others):
        assert near(model, base)["distance from base"].equal(
            alone(model, base)["distance from base"]
        )
        spread(model, base)
    assert counts == [3, 1] * 3
    # Rounding follows the batch, and points of another are not taken for its own.
    attrs.evolve(spread, batch=4)(base, base)
    assert counts == [3, 1] * 3 + [4]


def test_points_are_forgotten_with_their_pictures():
    points, own = Points(), pictures("ab", [0, 1])
    points.of(own, means, batch=2)
    assert len(points._known) == 1
    del own
    assert len(points._known) == 0


def test_what_models_read_is_known_before_they_are_loaded():
    assert [need.tower for need in embedding_needs(reward_folder())] == [None, reward_folder()]
    assert [need.tower for need in chat_needs("owner/name")] == [None, None, "owner/name", None]
    assert detector_needs()[-1].tower == HUB_ID
