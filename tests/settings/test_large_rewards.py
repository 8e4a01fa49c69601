"""ImageReward and HPSv3 in a run's YAML: what `--check` finds before anything loads."""

from __future__ import annotations

import pytest

from flowbp.config import ConfigurationError
from flowbp.rewards import HPSv3, ImageReward
from flowbp.settings import load
from flowbp.settings.loader import resolved
from tests.settings.test_weighted_reward import TYPED

KINDS = {"image_reward": ImageReward, "hpsv3": HPSv3}


@pytest.mark.filterwarnings("ignore:.*not what HPSv3 was trained with")
@pytest.mark.parametrize("name", KINDS)
def test_hardly_more_than_a_name_is_enough_and_loads_nothing(name):
    asked = {"hpsv3": ", template: 'Rate {prompt}'"}.get(name, "")
    settings = load([*TYPED, f"reward={{name: {name}{asked}}}"]).settings
    assert settings.reward.target is KINDS[name]
    typed = f"reward={{name: {name}, batch: 2, policy: {{weights: float32}}{asked}}}"
    assert "batch: 2" in resolved(load([*TYPED, typed]).settings)


def test_hpsv3_says_where_its_question_is():
    with pytest.raises(
        ConfigurationError, match=r"must be what HPSv3 is asked.*data_collator_qwen"
    ):
        load([*TYPED, "reward.name=hpsv3"])


@pytest.mark.parametrize("name", KINDS)
def test_a_wrong_path_is_found(name):
    with pytest.raises(ConfigurationError) as found:
        load([*TYPED, f"reward={{name: {name}, source: /no/file.pt, tokenizer: /no/words}}"])
    told = str(found.value)
    assert "reward.source: must be a f" in told
    assert "reward.tokenizer: must be a folder" in told


def test_a_file_that_was_cut_off_is_found(tmp_path):
    (tmp_path / "ImageReward.pt").write_bytes(b"PK")
    for source in (tmp_path, tmp_path / "ImageReward.pt"):
        with pytest.raises(ConfigurationError, match=r"has 2 bytes and the published ImageReward"):
            load([*TYPED, f"reward={{name: image_reward, source: {source}}}"])
    load([*TYPED, f"reward={{name: image_reward, source: {tmp_path}, verify: false}}"])


def test_a_template_without_a_place_for_the_prompt_is_found():
    with pytest.raises(ConfigurationError) as found:
        load([*TYPED, "reward={name: hpsv3, template: Rate it., pixels: 0, batch: 0}"])
    told = str(found.value)
    for piece in ("got 'Rate it.', and there is no such file", "reward.pixels", "reward.batch"):
        assert piece in told
