"""Numbers, labels and places of a configuration: what is too large, taken or empty is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from flowbp import limits
from flowbp.cli.evaluate.preflight import load as load_evaluation
from flowbp.component_errors import ComponentError
from flowbp.config import ConfigurationError
from flowbp.config.yaml import DEEPEST, LARGEST, MOST
from flowbp.evaluation.metric_runner import metric_columns
from flowbp.place import local_folder
from flowbp.prompts.table import LONGEST
from flowbp.rewards.pretrained import on_disk
from flowbp.settings import Settings, free_folder, load
from flowbp.settings.key_reference import look_up
from flowbp.training import Averaging

NUMBERS = {
    "run.seed": limits.SEED,
    "run.threads": limits.THREADS,
    "evaluation.noise_seed": limits.SEED,
    "evaluation.batch": limits.BATCH,
    "evaluation.steps": limits.GRID,
    "evaluation.every": limits.STEPS,
    "evaluation.prompts.count": limits.COUNT,
    "training.steps": limits.STEPS,
    "sampling.steps": limits.GRID,
    "sampling.velocity_every": limits.GRID,
    "sampling.height": limits.SIDE,
    "sampling.width": limits.SIDE,
    "batching.samples": limits.BATCH,
    "batching.accumulate": limits.BATCH,
    "batching.global": limits.BATCH,
    "batching.pull": limits.BATCH,
    "batching.decode": limits.BATCH,
    "samples.every": limits.STEPS,
    "samples.count": limits.SHOWN,
    "checkpoints.every": limits.STEPS,
    "checkpoints.keep": limits.STEPS,
    "schedule.warmup": limits.STEPS,
    "embeddings.batch": limits.BATCH,
}


def problems(*typed: str, tmp_path: Path) -> dict[str, str]:
    with pytest.raises(ConfigurationError) as caught:
        load(["container.yaml", f"run.folder={tmp_path / 'run'}", *typed])
    return {each.path: each.message for each in caught.value.problems}


@pytest.mark.parametrize("key", NUMBERS)
@pytest.mark.parametrize("value", [2**64, 10**30])
def test_more_than_64_bits_is_told_of_its_key(tmp_path: Path, key: str, value: int) -> None:
    found = problems(f"{key}={value}", tmp_path=tmp_path)
    wanted = "must be an integer" if key != "batching.pull" else "must be"
    assert [*found] == [key] and found[key].startswith(wanted) and str(value) in found[key]


@pytest.mark.parametrize("key", NUMBERS)
def test_every_count_has_a_largest_that_is_said(tmp_path: Path, key: str) -> None:
    over = NUMBERS[key] + 1
    found = problems(f"{key}={over}", tmp_path=tmp_path)
    assert key in found and str(over) in found[key]
    if over < 2**63:
        assert found[key] == f"must be an integer <= {NUMBERS[key]}, got {over}"


@pytest.mark.parametrize("key", ["seeds", "batch", "threads"])
def test_of_an_evaluation_too(tmp_path: Path, key: str) -> None:
    value = {"seeds": list(range(limits.SEEDS + 1)), "batch": 10**9, "threads": 10**9}[key]
    typed = ["evaluation.yaml", f"evaluation.folder={tmp_path / 'out'}"]
    with pytest.raises(ConfigurationError, match=f"evaluation.{key}: must be "):
        load_evaluation([*typed, f"evaluation.{key}={value}"])
    with pytest.raises(ConfigurationError, match=r"sampling\.steps: must be .* 10000, got"):
        load_evaluation([*typed, "sampling.steps=1000000000"])


@pytest.mark.parametrize("warmup", [False, True])
def test_the_share_of_the_start_is_a_product_that_needs_no_long_loop(warmup: bool) -> None:
    averaging = Averaging(0.9, warmup=warmup)
    product = 1.0
    for update in range(300):
        product *= averaging.decay_at(update)
    assert averaging.start_share(300) == pytest.approx(product, rel=1e-9)
    assert averaging.start_share(limits.STEPS) == 0.0


@pytest.mark.parametrize(
    ("labels", "pieces"),
    [
        ("{step: {name: shapes}}", ["evaluation.metrics.step", "my_step"]),
        ("{Reward: {name: shapes}}", ["evaluation.metrics.Reward", "my_Reward"]),
        ("{a: {name: shapes}, A: {name: shapes}}", ["evaluation.metrics", "'a' and 'A'"]),
        ("{a/b: {name: shapes}}", ["evaluation.metrics", "'a/b'"]),
        ('{"a\\tb": {name: shapes}}', ["evaluation.metrics", "'a\\tb'"]),
        (f"{{{'a' * 65}: {{name: shapes}}}}", ["evaluation.metrics", "64 at most"]),
        ("{é: {name: shapes}}", ["evaluation.metrics", "'é'"]),
    ],
)
def test_labels_inside_a_run(tmp_path: Path, labels: str, pieces: list[str]) -> None:
    found = problems("evaluation.every=25", f"evaluation.metrics={labels}", tmp_path=tmp_path)
    ((path, message),) = found.items()
    assert path == pieces[0] and pieces[1] in message


@pytest.mark.parametrize("label", ["model", "number", "seed", "prompt", "kind", "Prompt"])
def test_columns_of_scores_are_no_labels(tmp_path: Path, label: str) -> None:
    typed = ["evaluation.yaml", f"evaluation.folder={tmp_path / 'out'}"]
    with pytest.raises(ConfigurationError, match=f"metrics: must not hold.*{label}.*my_{label}"):
        load_evaluation([*typed, f"metrics={{{label}: {{name: shapes}}}}"])


def test_labels_of_models_and_parts_differ_in_more_than_case(tmp_path: Path) -> None:
    typed = ["evaluation.yaml", f"evaluation.folder={tmp_path / 'out'}"]
    with pytest.raises(ConfigurationError, match="models: must differ in more than case"):
        load_evaluation([*typed, "models={base: {}, Base: {}}"])
    part = "{reward: {name: shapes}, mean: 0, std: 1}"
    reward = f"reward={{name: weighted, parts: {{a: {part}, A: {part}}}}}"
    found = problems(reward, tmp_path=tmp_path)
    assert "must differ in more than case, got 'a' and 'A'" in found["reward.parts"]


def test_the_kind_of_totals_is_no_kind_of_prompts(tmp_path: Path) -> None:
    path = tmp_path / "prompts.csv"
    path.write_text("text,kind\na circle,total\n")
    prompts = f"prompts={{name: text, path: {path}, column: text, kind_column: kind}}"
    with pytest.raises(ConfigurationError, match="prompts: has prompts of the kind 'total'"):
        load_evaluation(["evaluation.yaml", f"evaluation.folder={tmp_path / 'out'}", prompts])


def test_columns_of_a_metric_are_told_apart_and_can_be_written() -> None:
    for found in ({"a\nb": [1.0]}, {"": [1.0]}, {"x" * 201: [1.0]}, {3: [1.0]}):
        with pytest.raises(ComponentError, match="must name its columns by printable texts"):
            metric_columns(max, lambda found=found: found, ["a circle"], label="m")
    both = {"a": torch.ones(1), "m.a": torch.ones(1)}
    with pytest.raises(ComponentError, match=r"two columns that would be called 'm\.a'"):
        metric_columns(max, lambda: both, ["x"], label="m", called=lambda name: f"m.{name}"[-3:])


@pytest.mark.parametrize(
    "typed",
    [
        "backbone={name: sd3, source: ''}",
        "reward={name: hpsv2, source: ' '}",
        "reward={name: clip, source: x/y, tokenizer: ''}",
        "tuning={name: lora, start: ''}",
        "prompts={name: dataset, dataset: '', column: c}",
        "prompts={name: text, path: ''}",
        "embeddings={folder: ''}",
        "run={folder: ''}",
    ],
)
def test_an_empty_text_is_no_place(tmp_path: Path, typed: str) -> None:
    base = ["container.yaml", *([] if "run" in typed else [f"run.folder={tmp_path / 'run'}"])]
    with pytest.raises(ConfigurationError) as caught:
        load([*base, typed])
    (problem,) = caught.value.problems
    assert problem.message.startswith("must be a path") and "got '" in problem.message


def test_an_empty_text_is_no_place_from_python_either() -> None:
    assert on_disk("") is None
    with pytest.raises(FileNotFoundError):
        local_folder("")


def test_the_home_folder_is_meant_wherever_a_path_is(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "p.txt").write_text("a circle\n")
    typed = ["run.folder=~/r", "embeddings.folder=~/e", "prompts={name: text, path: ~/p.txt}"]
    settings = load(["container.yaml", *typed, "backbone={name: sd3, source: ~/m}"]).settings
    assert settings.run.folder == tmp_path / "r"
    assert settings.embeddings.folder == tmp_path / "e"
    assert settings.prompts.path == tmp_path / "p.txt"
    assert settings.backbone.arguments["source"] == str(tmp_path / "m")
    evaluated = load_evaluation(["evaluation.yaml", "evaluation.folder=~/o"]).settings
    assert evaluated.evaluation.folder == tmp_path / "o"
    with pytest.raises(ConfigurationError, match=f"checkpoint: is '{tmp_path / 'c'}'"):
        load_evaluation(["evaluation.yaml", "evaluation.folder=~/o", "models.b.checkpoint=~/c"])


@pytest.mark.parametrize("folder", [".", "..", "/"])
def test_a_taken_folder_without_a_name_has_a_free_one_beside_or_in_it(folder: str) -> None:
    free = free_folder(Path(folder))
    assert not free.exists() and free.name.endswith("-2")
    assert free.parent == (Path(folder).resolve().parent if folder != "/" else Path("/"))
    with pytest.raises(ConfigurationError, match=f"run.folder={free}"):
        load(["container.yaml", f"run.folder={folder}"])


def test_what_is_in_the_way_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere")
    for place in (tmp_path / "file" / "run", tmp_path / "link", Path("/dev/null")):
        with pytest.raises(ConfigurationError, match=r"run\.folder: is .* is no folder; name"):
            load(["container.yaml", f"run.folder={place}"])
    endless = "/".join(["x" * 200] * 30)
    with pytest.raises(ConfigurationError, match=r"run\.folder: .*cannot be used .*too long"):
        load(["container.yaml", f"run.folder={tmp_path / endless}"])


@pytest.mark.parametrize("key", NUMBERS)
def test_the_range_of_every_count_is_shown(key: str) -> None:
    section, _, _ = key.rpartition(".")
    component = {"evaluation.prompts": ["shapes"], "schedule": ["constant"]}.get(section, [])
    (entry,) = look_up([section, *component], Settings)
    (found,) = (each for each in entry.keys if each.path == key)
    largest = NUMBERS[key]
    assert found.kind.endswith("2^63 - 1" if largest == limits.SEED else f" to {largest:,}"), found


def test_the_other_limits_are_said_in_the_docs() -> None:
    said = Path("docs/configuration.md").read_text(encoding="utf-8")
    for number in (limits.SEEDS, limits.LENGTH, MOST, LONGEST):
        assert f"{number:,}" in said, number
    assert f"{LARGEST // 1024} KiB" in said and f"{DEEPEST} levels" in said
    for word in ("step", "reward", "accuracy", "parts", "model", "number", "seed", "prompt"):
        assert f"`{word}`" in said
