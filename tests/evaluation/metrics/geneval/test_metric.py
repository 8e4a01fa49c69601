"""GenEval as a metric: columns, thresholds, other prompts, the total."""

from __future__ import annotations

import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from flowbp.evaluation import HeldOutPrompt, ScoreRow, Scores
from flowbp.evaluation.metrics.geneval import GenEval
from flowbp.evaluation.metrics.geneval.criteria import Detection
from flowbp.evaluation.metrics.geneval.detector import Mask2Former
from flowbp.evaluation.metrics.geneval.metric import Colours, TaskMetric, column_name, cut_out
from flowbp.evaluation.metrics.geneval.task import COLOURS, TASKS, Task, Wanted
from flowbp.rewards import ClipReward, Towers, crop_shortest_side_torchvision
from flowbp.shapes.embedded import reward_folder

from .tiny import save

DOG = Task("a photo of a dog", "single_object", [Wanted("dog", 1)])
DOGS = Task("a photo of two dogs", "counting", [Wanted("dog", 2)], [Wanted("dog", 3)])
RED = Task("a photo of a red dog", "colors", [Wanted("dog", 1, "red")])
CIRCLE = HeldOutPrompt("a circle")


class Seen:
    """A detector that finds what it is told, and remembers what it was shown."""

    def __init__(self, *scores):
        self.scores, self.shown = scores, []

    def __call__(self, images):
        self.shown.append(images)
        found = tuple(Detection("dog", score, (0, 0, 4, 4)) for score in self.scores)
        return (found,) * len(images)


def nan_as_none(column):
    return [None if math.isnan(value) else value for value in column.tolist()]


@pytest.mark.parametrize(
    ("scores", "colour", "dog", "dogs", "red"),
    [
        ((0.5, 0.5), "red", 1, 0, 1),
        ((0.95, 0.95), "blue", 1, 1, 0),
        ((0.95, 0.5), "red", 1, 0, 1),
        ((), "red", 0, 0, 0),
        ((0.95, 0.95, 0.95), "red", 1, 0, 1),
    ],
)
def test_columns_by_task(scores, colour, dog, dogs, red):
    metric = TaskMetric([DOG, DOGS, RED], Seen(*scores), lambda image, found: colour)
    columns = metric(torch.rand(4, 3, 8, 8), [DOG, CIRCLE, DOGS, RED])
    assert nan_as_none(columns[column_name()]) == [dog, None, dogs, red]
    assert nan_as_none(columns[column_name(kind="single_object")]) == [dog, None, None, None]
    assert nan_as_none(columns[column_name(kind="counting")]) == [None, None, dogs, None]
    assert nan_as_none(columns[column_name(kind="colors")]) == [None, None, None, red]
    assert list(columns) == [column_name(), *(column_name(kind=task) for task in TASKS)]


def test_the_label_tells_the_detector_apart():
    metric = TaskMetric([DOG], Seen(0.5), lambda image, found: "red", label="mine")
    names = list(metric(torch.rand(1, 3, 8, 8), [DOG]))
    assert names[:2] == ["mine.all (HF detector)", "mine.single_object (HF detector)"]
    with pytest.raises(ValueError, match="`label` must not be empty"):
        TaskMetric([DOG], Seen(0.5), lambda image, found: "red", label="")


def test_prompts_are_known_by_their_text_and_others_are_not_looked_at():
    detector = Seen(0.5)
    metric = TaskMetric([DOG], detector, lambda image, found: "red")
    assert nan_as_none(
        metric(torch.rand(1, 3, 8, 8), [HeldOutPrompt(DOG.text)])[column_name()]
    ) == [1]
    columns = metric(torch.rand(1, 3, 8, 8), [CIRCLE])
    assert nan_as_none(columns[column_name()]) == [None]
    assert len(detector.shown) == 1


def test_pictures_are_judged_as_their_files_hold_them():
    detector = Seen(0.5)
    TaskMetric([DOG], detector, lambda image, found: "red")(torch.full((1, 3, 8, 8), 0.5), [DOG])
    assert torch.equal(detector.shown[0], torch.full((1, 3, 8, 8), 128 / 255))


def test_another_number_of_prompts_is_refused():
    metric = TaskMetric([DOG], Seen(0.5), lambda image, found: "red")
    with pytest.raises(ValueError, match="`prompts` must be as many as the 2 images, got 1"):
        metric(torch.rand(2, 3, 8, 8), [DOG])


def test_the_total_is_the_mean_of_the_six_tasks():
    generator = torch.Generator().manual_seed(0)
    kinds = [TASKS[int(n)] for n in torch.randint(6, (200,), generator=generator)]
    passed = (torch.rand(200, generator=generator) > 0.4).float()
    rows = [
        ScoreRow(
            model="base",
            number=number,
            seed=0,
            prompt=f"{number}",
            kind=kind,
            values={column_name(kind=t): value if kind == t else math.nan for t in TASKS},
        )
        for number, (value, kind) in enumerate(zip(passed.tolist(), kinds, strict=True))
    ]
    totals = TaskMetric([DOG], Seen(0.5), lambda image, found: "red").totals
    total = column_name(kind="overall")
    accuracies = []
    for task in TASKS:
        own = [v for v, kind in zip(passed.tolist(), kinds, strict=True) if kind == task]
        accuracies.append(sum(own) / len(own))
    found = Scores(rows, totals=totals).mean("base", total)
    assert found is not None and found.mean == pytest.approx(sum(accuracies) / 6, abs=1e-12)
    of_five = Scores([row for row in rows if row.kind != "colors"], totals=totals)
    assert of_five.mean("base", total) is None


def test_it_loads_and_runs_on_real_classes(tmp_path, monkeypatch):
    monkeypatch.setattr("flowbp.evaluation.metrics.geneval.detector._LONGEST", 96)
    monkeypatch.setattr("flowbp.evaluation.metrics.geneval.detector._SHORTEST", 64)
    save(tmp_path / "detector")
    metadata = tmp_path / "evaluation_metadata.jsonl"
    towers = Towers()
    images = torch.rand(2, 3, 24, 24, generator=torch.Generator().manual_seed(0))
    seen = Mask2Former(source=tmp_path / "detector", towers=towers)(images[:1])[0]
    assert seen
    task = {
        "tag": "color_attr",
        "include": [{"class": seen[0].name, "count": 1, "color": "red"}],
        "prompt": "p",
    }
    metadata.write_text(json.dumps(task))
    metric = GenEval(
        metadata=metadata, source=tmp_path / "detector", clip=reward_folder(), towers=towers
    )
    # GenEval prepares an object's crop by open_clip, whose centre is torchvision's.
    assert metric.metric.colour_in.clip.resize is crop_shortest_side_torchvision
    columns = metric(images, [HeldOutPrompt("p"), CIRCLE])
    colour = metric.metric.colour_in(images[0], seen[0])
    assert nan_as_none(columns[column_name()]) == [float(colour == "red"), None]


@pytest.fixture(scope="module")
def clip():
    return ClipReward.from_pretrained(reward_folder())


def picture(seed=0):
    return torch.rand(3, 20, 24, generator=torch.Generator().manual_seed(seed))


@given(st.data())
def test_an_object_is_cut_out_pixel_by_pixel(data):
    left, top = data.draw(st.integers(0, 22)), data.draw(st.integers(0, 18))
    right, bottom = data.draw(st.integers(left + 1, 24)), data.draw(st.integers(top + 1, 20))
    mask = torch.rand(20, 24, generator=torch.Generator().manual_seed(left)) > 0.5
    found = cut_out(picture(), Detection("dog", 0.9, (left, top, right, bottom), mask))
    assert found.shape == (3, bottom - top, right - left)
    for y in range(top, bottom):
        for x in range(left, right):
            wanted = picture()[:, y, x] if mask[y, x] else torch.full((3,), 153 / 255)
            assert torch.equal(found[:, y - top, x - left], wanted)


@pytest.mark.parametrize("name", ["dog", "orange"])
def test_the_nearest_description_decides(clip, name):
    colours = Colours(clip)
    for seed in range(6):
        image = picture(seed)
        mask = torch.zeros(20, 24, dtype=torch.bool)
        mask[3:15, 4 : 10 + seed] = True
        detection = Detection(name, 0.9, (4, 3, 10 + seed, 15), mask)
        seen = clip.embed_images(cut_out(image, detection)[None])[0]
        scores = {}
        for colour in COLOURS:
            texts = [
                f"a photo of a {colour} {name}",
                f"a photo of a {colour}-colored {name}",
                f"a photo of a {colour} object",
            ]
            mean = sum(clip.embed_prompts([text])[0] for text in texts) / 3
            scores[colour] = float(F.cosine_similarity(seen, mean, dim=0))
        assert colours(image, detection) == max(scores, key=scores.get)


class Palette:
    """A CLIP that sees the mean of a picture and reads the colour's name."""

    device = torch.device("cpu")
    paint = torch.tensor(
        [
            *([1, 0, 0], [1, 0.5, 0], [1, 1, 0], [0, 1, 0], [0, 0, 1]),
            *([0.5, 0, 0.5], [1, 0.6, 0.8], [0.5, 0.3, 0.1], [0.01, 0.01, 0.01], [1, 1, 1]),
        ]
    )

    def __init__(self):
        self.read = []

    def embed_images(self, images):
        return F.normalize(images.mean((2, 3)) - 0.4, dim=-1)

    def embed_prompts(self, prompts):
        self.read += prompts
        words = [next(c for c in COLOURS if f"a {c}" in prompt) for prompt in prompts]
        return F.normalize(self.paint[[COLOURS.index(word) for word in words]] - 0.4, dim=-1)


@pytest.mark.parametrize("colour", COLOURS)
def test_painted_objects_are_named(colour):
    clip = Palette()
    colours = Colours(clip)
    image = clip.paint[COLOURS.index(colour)][:, None, None].expand(3, 8, 8)
    assert colours(image, Detection("dog", 0.9, (0, 0, 8, 8))) == colour
    colours(image, Detection("dog", 0.9, (2, 2, 4, 4)))
    # Each class is described once.
    assert len(clip.read) == 30
