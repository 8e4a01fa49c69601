"""The model card that every saved model carries."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from huggingface_hub.constants import ENDPOINT

import flowbp
from flowbp.cli.evaluate.fingerprint import Digests
from flowbp.cli.evaluate.resume import identity
from flowbp.cli.evaluate.settings import ModelSection
from flowbp.cli.run import card_base, execution
from flowbp.cli.run.card_text import public
from flowbp.run import main
from flowbp.training import model_damage
from flowbp.training.checkpoint import read_manifest

# The tiny tokenizer counts letters.
pytestmark = pytest.mark.filterwarnings("ignore::flowbp.adapters.CutPromptWarning")

DEFAULT = str(Path(__file__).parents[3] / "container.yaml")
EVALUATION = "evaluation.prompts={name: shapes, count: 4}"
LORA = "tuning={name: lora, rank: 2, alpha: 4}"


def card_of(run, name="final"):
    return ModelCard.load(run / "checkpoints" / name / "README.md")


def table(card):
    """The rows of the table of metrics by name, their cells."""
    lines = re.findall(r"^\| `(\w+)` \| (.*) \|$", card.text, flags=re.M)
    return {name: cells.split(" | ") for name, cells in lines}


@pytest.fixture
def run(tmp_path):
    return tmp_path / "run"


@pytest.mark.parametrize("tuning", [[], [LORA]], ids=["full", "lora"])
def test_every_checkpoint_has_a_card(yaml, tmp_path, run, tuning):
    assert main([yaml, *tuning, EVALUATION, "checkpoints.every=1"]) == 0
    final, earlier = card_of(run), card_of(run, "step-000001")
    for card, step in ((final, 2), (earlier, 1)):
        assert card.data.library_name == "diffusers"
        assert card.data.pipeline_tag == "text-to-image"
        assert ("lora" in card.data.tags) == bool(tuning) == ("load_lora_weights" in card.text)
        assert f"after step {step} of 2" in card.text
        assert "StableDiffusion3Pipeline.from_pretrained(" in card.text
        assert f"flowbp {flowbp.__version__}" in card.text
        assert "- method: `bridge (active 3" in card.text and "learning_rate 0.001" in card.text
        assert "- prompts: `shapes`" in card.text and "2 samples in each" in card.text
        # Nothing of this machine; `base` is the folder's name.
        assert str(tmp_path) not in card.content and "partial" not in card.content
        assert "source base" in card.text and card.data.base_model is None
    assert set(table(final)) == {"reward"} and not table(earlier)
    _, _, gain, count = table(final)["reward"]
    assert re.fullmatch(r"[+−]?[\d.]+ \[[+−]?[\d.]+, [+−]?[\d.]+\]", gain) and count == "4"
    assert "None measured of these weights" in earlier.text
    for name in ("final", "step-000001"):
        place = run / "checkpoints" / name
        assert model_damage(place, state=True) is None
        assert "README.md" not in read_manifest(place).files


def test_a_run_without_an_evaluation_says_so(yaml, run):
    assert (
        main([yaml, "sampling.negative_prompt=/fog, a crowd/and rain", "sampling.guidance=2"]) == 0
    )
    card = card_of(run)
    assert "The run evaluated none." in card.text and not table(card)
    # It begins as a place does, and is a text.
    assert "negative_prompt /fog, a crowd/and rain" in card.text


def test_metrics_inside_the_run_are_in_the_card_as_well(yaml, run):
    also = "evaluation.metrics.again={name: reward, reward: {name: shapes}}"
    assert main([yaml, EVALUATION, "evaluation.every=1", "evaluation.count=3", also]) == 0
    found = table(card_of(run))
    assert set(found) == {"reward", "again"}
    assert "[" in found["again"][2] and found["again"][3] == "3"


LICENCES = {
    "named": ("license: apache-2.0", {"license": "apache-2.0"}),
    "other": (
        "license: other\nlicense_name: mine\nlicense_link: LICENSE.md",
        {"license": "other", "license_name": "mine"},
    ),
    "none": ("tags: [a]", {}),
    "broken": ("license: [", {}),
}


@pytest.mark.parametrize("case", LICENCES)
def test_the_licence_is_that_of_the_base(yaml, models, tmp_path, run, case):
    head, wanted = LICENCES[case]
    shutil.copytree(models / "base", tmp_path / "mine")
    (tmp_path / "mine" / "README.md").write_text(f"---\n{head}\n---\n\n# Mine\n")
    assert main([yaml, f"backbone.source={tmp_path / 'mine'}", "training.steps=1"]) == 0
    card = card_of(run)
    data = card.data.to_dict()
    assert {name: data[name] for name in data if name.startswith("license")} == wanted
    assert ("add the licence of the base" in card.text) == (not wanted)


def test_the_licence_of_a_base_on_the_hub_is_read_from_its_cached_card(tmp_path, monkeypatch):
    place = tmp_path / "README.md"
    place.write_text("---\nlicense: other\nlicense_name: mine\nlicense_link: LICENSE.md\n---\n")
    cards = {("some/base", "README.md"): place}
    monkeypatch.setattr(card_base, "cached_file", lambda *asked, revision: cards.get(asked))
    known, unknown = (card_base.BaseModel(name, name) for name in ("some/base", "other/base"))
    assert unknown.licence() == {}
    link = f"{ENDPOINT}/some/base/blob/main/LICENSE.md"
    assert known.licence() == {"license": "other", "license_name": "mine", "license_link": link}
    place.write_text("no head at all")
    assert known.licence() == {}


def test_a_base_in_the_hubs_cache_is_named_by_its_id(yaml, models, tmp_path, run):
    place = tmp_path / "models--some--base" / "snapshots" / "0a1b"
    shutil.copytree(models / "base", place)
    assert main([yaml, f"backbone.source={place}", LORA, "training.steps=1"]) == 0
    card = card_of(run)
    assert card.data.base_model == "some/base" and card.data.base_model_relation == "adapter"
    assert ".from_pretrained('some/base'" in card.text and "0a1b" not in card.content


def test_the_embedded_models_lora_loads_from_the_package(tmp_path, run):
    typed = ["run.folder=" + str(run), "training.steps=1", "batching.samples=2", LORA]
    off = [
        "evaluation=null",
        "judge=null",
        "samples=null",
        "checkpoints=null",
        "observers.tensorboard=false",
    ]
    assert main([DEFAULT, *typed, *off]) == 0
    card = card_of(run)
    assert card.data.license == "apache-2.0" and "from_pretrained(base_folder()" in card.text
    lines = re.search(r"```python\n(.*?)\nimages", card.text, flags=re.S)
    here = str(run / "checkpoints" / "final")
    exec(lines[1].replace("path or hub id of this folder", here), {})


def test_a_run_killed_before_its_end_completes_the_card(yaml, run, monkeypatch):
    def kill(*_, **__):
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(execution, "complete_card", kill)
        assert main([yaml, EVALUATION]) == 130
    assert "None measured" in card_of(run).text
    # A kill in the middle of the replacement leaves this.
    (run / "checkpoints" / "final" / ".README.md.flowbp-partial").write_text("---")
    assert main([yaml, EVALUATION, "--resume"]) == 0
    assert set(table(card_of(run))) == {"reward"}
    assert not [*run.rglob("*.flowbp-partial")]


def test_an_edited_card_keeps_no_run_from_going_on(yaml, run, tmp_path):
    assert main([yaml, EVALUATION]) == 0
    final = run / "checkpoints" / "final"
    (final / "README.md").write_text("mine")
    # What the hub adds to a folder that was downloaded from it.
    (final / ".gitattributes").write_text("")
    (final / ".cache" / "huggingface").mkdir(parents=True)
    (final / ".cache" / "huggingface" / "x.metadata").write_text("")
    assert model_damage(final, state=True) is None
    (final / "strange.txt").write_text("")
    assert "strange.txt was not there" in model_damage(final)


def test_an_evaluation_goes_on_whatever_the_card_says(yaml, run):
    assert main([yaml]) == 0
    final = run / "checkpoints" / "final"
    section, digests = ModelSection(checkpoint=final), Digests(run)
    before = identity(section, digests)
    (final / "README.md").write_text("mine")
    (final / ".gitattributes").write_text("")
    assert identity(section, digests) == before and len(before["checkpoint"]) > 5


def test_more_steps_replace_the_card_with_the_model(yaml, run):
    assert main([yaml, EVALUATION]) == 0
    (run / "checkpoints" / "final" / "README.md").write_text("mine")
    assert main([yaml, EVALUATION, "training.steps=3", "--resume"]) == 0
    assert "after step 3 of 3" in card_of(run).text and table(card_of(run))


OWN = """
from pathlib import Path
from flowbp.adapters import SD3Backbone

class Own(SD3Backbone):
    def save(self, folder: Path) -> None:
        super().save(folder)
        (folder / "README.md").write_text("its own")

def with_card(*, source: str, device="cpu"):
    return Own.from_pretrained(source, device=device, text_length=4, use_t5=False)
"""
FAILING = OWN.replace(
    '        (folder / "README.md").write_text("its own")',
    "    def loading(self, folder: Path) -> str:\n"
    '        return str(1 / ("partial" not in str(folder)))',
)


@pytest.fixture
def own(tmp_path, monkeypatch, models):
    def write(text, module):
        (tmp_path / f"{module}.py").write_text(text)
        monkeypatch.syspath_prepend(tmp_path)
        return f"backbone={{name: '{module}:with_card', source: {models / 'base'}}}"

    return write


def test_a_backbone_that_saves_a_card_of_its_own_keeps_it(yaml, run, own):
    assert main([yaml, EVALUATION, own(OWN, "own_card")]) == 0
    final = run / "checkpoints" / "final"
    assert (final / "README.md").read_text() == "its own"
    assert "README.md" in read_manifest(final).files


def test_a_card_that_cannot_be_made_costs_no_model(yaml, run, own):
    with pytest.warns(
        UserWarning,
        match=r"README.md of a checkpoint could not .*ZeroDivisionError: division by zero",
    ):
        assert main([yaml, own(FAILING, "failing_card")]) == 0
    final = run / "checkpoints" / "final"
    assert not (final / "README.md").exists() and model_damage(final, state=True) is None


def test_places_are_named_by_their_last_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    os.makedirs("data/sd3")
    assert public("data/sd3") == public(f"{tmp_path}/data/sd3/") == public("~/x/sd3") == "sd3"
    assert public("/gone/prompts.txt") == "prompts.txt"
    for text in ("hpsv2", "owner/name", "my.rewards:Mine", "a red/blue thing", ""):
        assert public(text) == text


def test_a_single_file_is_named_and_its_licence_is_not_that_of_the_source(
    yaml, models, tmp_path, run
):
    source = tmp_path / "owned" / "base"
    shutil.copytree(models / "base", source)
    (source / "README.md").write_text("---\nlicense: mit\n---\n")
    file = tmp_path / "private" / "mine.safetensors"
    file.parent.mkdir()
    shutil.copy(next((source / "transformer").glob("*.safetensors")), file)
    typed = [f"backbone.source={source}", f"backbone.transformer={file}"]
    assert main([yaml, LORA, *typed]) == 0
    card = card_of(run)
    assert card.data.license is None and card.data.base_model is None
    assert "the transformer came from a single file" in card.text
    assert "`mine.safetensors`, and all else of" in card.text
    assert "from_single_file(\n    'mine.safetensors'" in card.text
    assert "private" not in card.content and str(tmp_path) not in card.content
