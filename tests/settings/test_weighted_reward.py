"""Published rewards in a run's YAML: what `--check` finds before anything loads."""

from __future__ import annotations

import pytest

from flowbp.config import ConfigurationError
from flowbp.rewards import AestheticScore, CLIPScore, HPSv2, PickScore
from flowbp.run import main
from flowbp.settings import load
from flowbp.settings.loader import resolved

TYPED = [
    "run.folder=runs/new",
    "backbone.name=shapes",
    "prompts.name=shapes",
    "method.name=sparse",
    "loss.name=linear",
    "sampling={steps: 4, guidance: 1, height: 64, width: 64}",
    "batching.samples=2",
]
KINDS = {
    "hpsv2": HPSv2,
    "pickscore": PickScore,
    "clipscore": CLIPScore,
    "aesthetic": AestheticScore,
}


@pytest.mark.parametrize("name", KINDS)
def test_a_name_alone_is_enough_and_loads_nothing(name):
    settings = load([*TYPED, f"reward.name={name}"]).settings
    assert settings.reward.target is KINDS[name]
    policy = "{weights: bfloat16, compute: bfloat16}"
    typed = f"reward={{name: {name}, batch: 2, policy: {policy}}}"
    assert "batch: 2" in resolved(load([*TYPED, typed]).settings)


@pytest.mark.parametrize("name", KINDS)
@pytest.mark.parametrize("path", ["/no/HPS.pt", "weights/HPS.pt"])
def test_a_wrong_path_is_found(name, path):
    with pytest.raises(ConfigurationError) as found:
        load([*TYPED, f"reward={{name: {name}, source: {path}}}"])
    told = str(found.value)
    assert "command line: reward.source: must be a f" in told and "there is no such path" in told


def test_every_mistake_is_found_at_once(tmp_path):
    path = tmp_path / "HPS_v2.1_compressed.pt"
    path.write_bytes(b"PK")
    typed = f"{{name: hpsv2, source: {path}, tokenizer: /no/words, batch: 0, towers: 1, verfy: no}}"
    with pytest.raises(ConfigurationError) as found:
        load([*TYPED, f"reward={typed}"])
    told = str(found.value)
    assert told.startswith("5 problems")
    for piece in (
        "has 2 bytes and the published HPS_v2.1_compressed.pt has 1972490005: it was cut off",
        "reward.tokenizer: must be a folder (a CLIP tokenizer)",
        "reward.batch: must be an integer >= 1, got 0",
        "reward.towers: is supplied by the run",
        "Did you mean `verify`?",
    ):
        assert piece in told
    load([*TYPED, f"reward={{name: hpsv2, source: {path}, verify: false}}"])


def test_check_tells_a_wrong_path(yaml, capsys):
    assert main(["--check", yaml, "reward={name: pickscore, source: /no/model}"]) == 2
    told = capsys.readouterr().err
    assert "reward.source" in told and "/no/model" in told and "Traceback" not in told


def test_a_function_with_other_arguments_is_told_what_a_reward_is_called_with(
    tmp_path, monkeypatch
):
    (tmp_path / "named.py").write_text(
        "def misnamed(pictures, texts):\n    return pictures.mean((1, 2, 3))\n"
        "def making(red, green):\n    return lambda images, prompts: images[:, 0].mean((1, 2))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigurationError) as found:
        load([*TYPED, "reward.name=named:misnamed"])
    assert str(found.value).endswith(
        "command line: reward.name: names 'named:misnamed', which is called with `pictures` and "
        "`texts`; a function is a reward itself only if its arguments are `images` and `prompts`, "
        "so rename them; if it makes a reward, `pictures` and `texts` are keys to give"
    )
    load([*TYPED, "reward={name: 'named:making', red: 1, green: 0}"])
    with pytest.raises(ConfigurationError, match=r"reward\.green: is missing; it has no default"):
        load([*TYPED, "reward={name: 'named:making', red: 1}"])
