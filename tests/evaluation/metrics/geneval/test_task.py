"""GenEval's metadata: what is read, and how mistakes are told."""

from __future__ import annotations

import json

import pytest

from flowbp.evaluation.metrics.geneval import GenEvalHeldOut
from flowbp.evaluation.metrics.geneval.task import (
    CLASSES,
    TASKS,
    Task,
    Wanted,
    parse_task,
    read_tasks,
)

DOG, CAT = {"class": "dog", "count": 1}, {"class": "cat", "count": 1}


def line(tag="single_object", include=(DOG,), prompt="a photo of a dog", **more):
    return json.dumps({"tag": tag, "include": list(include), "prompt": prompt, **more})


LINES = [
    line(),
    line("two_object", [DOG, CAT], "a photo of a dog and a cat"),
    line(
        "counting",
        [{"class": "dog", "count": 3}],
        "a photo of three dogs",
        exclude=[{"class": "dog", "count": 4}],
    ),
    line("colors", [DOG | {"color": "red"}], "a photo of a red dog"),
    line("position", [CAT, DOG | {"position": ["left of", 0]}], "a photo of a dog left of a cat"),
    line("color_attr", [DOG | {"color": "red"}, CAT | {"color": "blue"}], "a red dog, a blue cat"),
]


def written(tmp_path, lines):
    path = tmp_path / "evaluation_metadata.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_the_six_tasks_are_read_in_order(tmp_path):
    tasks = read_tasks(written(tmp_path, [*LINES[:3], "", *LINES[3:]]))
    assert [task.kind for task in tasks] == list(TASKS)
    assert tasks[2].exclude == (Wanted("dog", 4),)
    assert tasks[4].include == (Wanted("cat", 1), Wanted("dog", 1, position=("left of", 0)))
    assert tasks[5].include[1].colour == "blue"


def test_they_are_held_out_prompts(tmp_path):
    source = GenEvalHeldOut(written(tmp_path, LINES))
    assert [prompt.text for prompt in source.prompts()][:2] == [
        "a photo of a dog",
        "a photo of a dog and a cat",
    ]
    assert {prompt.kind for prompt in source.prompts()} == set(TASKS)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("{", "no JSON"),
        ("[1]", r"a task must be a JSON object, got \[1\]"),
        ('{"tag": "counting"}', "`include` is missing"),
        (line(Prompt="p"), "`Prompt` is no key of a task"),
        (line("single_objects"), "`tag` must be .* such as 'single_object', got 'single_objects'"),
        (line(prompt=" "), "`prompt` must be a text"),
        (line(prompt=3), "`prompt` must be a text, got 3"),
        (line(include=[]), "`include` must hold at least one"),
        (line(include=[{"class": "dog"}]), "`count` is missing"),
        (line(include=[3]), "an entry of `include` must be a JSON object"),
        (line(include=[{"class": "dogs", "count": 1}]), "`class` must be .*'dog', got 'dogs'"),
        (line(include=[{"class": "mouse", "count": 1}]), "`class` must be .*got 'mouse'"),
        (line(include=[{"class": "dog", "count": 0}]), "`count` must be .* got 0"),
        (line(include=[{"class": "dog", "count": True}]), "`count` must be .* got True"),
        (line(include=[{"class": "dog", "count": "2"}]), "`count` must be .* got '2'"),
        (line(include=[{"class": ["dog"], "count": 1}]), r"`class` must be .*got \['dog'\]"),
        (line(include=[DOG | {"color": "mauve"}]), "`color` must be .* got 'mauve'"),
        (line(include=[DOG | {"position": "left of"}]), "`position` must be one of left of"),
        (line(include=[CAT, DOG | {"position": ["near", 0]}]), "`position` must be one of left"),
        (line(include=[CAT, DOG | {"position": ["above", 1]}]), "seen from an earlier entry"),
        (line(include=[CAT, DOG | {"position": ["above", -1]}]), "`position` must be one of"),
        (line("colors"), "`color` is missing at 'dog'"),
        (line("color_attr", [DOG | {"color": "red"}, CAT]), "`color` is missing at 'cat'"),
        (line("position"), "`position` is missing"),
        (line("counting"), "`exclude` of a counting task must hold 2 of 'dog'"),
        (line(exclude=3), "`exclude` must be a list"),
        (line(exclude=[DOG | {"color": "red"}]), "`exclude` must give `class` and `count` alone"),
    ],
)
def test_a_faulty_line_is_told(text, told):
    with pytest.raises(ValueError, match=told):
        parse_task(text)


def test_all_faulty_lines_are_told_with_their_numbers(tmp_path):
    path = written(tmp_path, [LINES[0], "{", "", LINES[0], line("colours")])
    with pytest.raises(ValueError) as caught:
        read_tasks(path)
    told = str(caught.value).splitlines()
    assert told[0] == f"`metadata` {str(path)!r} is not GenEval's:"
    assert told[1].startswith("line 2: no JSON")
    assert told[2] == ("line 4: `prompt` 'a photo of a dog' stands on line 1, too; remove one")
    assert told[3].startswith("line 5: `tag` must be one of the six tasks, such as 'colors'")
    assert "github.com/djghosh13/geneval" in told[4]


def test_many_faulty_lines_are_counted(tmp_path):
    with pytest.raises(ValueError, match="… and 4 lines more"):
        read_tasks(written(tmp_path, ["{"] * 9))


def test_no_file_and_an_empty_one(tmp_path):
    with pytest.raises(ValueError, match=r"`metadata` must be a file, got .*No such file"):
        read_tasks(tmp_path / "absent.jsonl")
    with pytest.raises(ValueError, match="holds no task"):
        read_tasks(written(tmp_path, [""]))


def test_classes_are_cocos_80_in_order():
    assert len(set(CLASSES)) == 80
    assert [CLASSES.index(name) for name in ("person", "dog", "computer mouse", "tv remote")] == [
        *(0, 16, 64, 65)
    ]
    assert CLASSES.index("computer keyboard") == 66 and CLASSES[-1] == "toothbrush"


def test_a_task_is_a_value():
    task = Task("p", "single_object", [Wanted("dog", 1)])
    assert task == Task("p", "single_object", (Wanted("dog", 1),))
