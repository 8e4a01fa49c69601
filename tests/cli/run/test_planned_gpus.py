"""`--check --on`: what is predicted for GPUs that are not here, and what is refused."""

from __future__ import annotations

import attrs
import pytest
import torch

from benchmarks.backbones import backbone_of, predicted
from benchmarks.random_models import settings_of, vision_reward
from flowbp.cli.run import predicted_memory
from flowbp.cli.run.check import division_of
from flowbp.cli.run.predicted_memory import peak_text
from flowbp.run import main
from flowbp.settings import RunContainer
from flowbp.settings.device import Gpus
from flowbp.settings.unloaded_model import META
from flowbp.settings.unloaded_reward import PicturesAlone
from flowbp.training import Launch
from flowbp.training.division import GIB, Division

from ...tiny_run import write_configuration

# The tiny tokenizer counts letters.
pytestmark = pytest.mark.filterwarnings("ignore::flowbp.adapters.CutPromptWarning")


@pytest.fixture(autouse=True)
def one_cpu(monkeypatch):
    """A laptop."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


@pytest.fixture
def auto(tmp_path, models):
    """A configuration that says nothing of the device."""
    path = write_configuration(tmp_path, models)
    path.write_text(path.read_text().replace("device: cpu, ", ""))
    return str(path)


@pytest.mark.parametrize("gpus", [Gpus(1, 80 * GIB), Gpus(8, 24 * GIB)])
def test_it_predicts_what_the_benchmarks_predict_for_such_a_device(gpus, monkeypatch):
    settings = settings_of("sd35_medium", "bridge", "batching.samples=8", "batching.global=64")
    sketch = settings.tuning(
        backbone_of(settings, "sd35_medium", META, small=False), generator=torch.Generator()
    )
    monkeypatch.setattr(
        predicted_memory, "reward_sketch", lambda _: PicturesAlone(vision_reward(META, small=False))
    )
    launch = Launch(size=gpus.count, local_size=gpus.count)
    found = division_of(settings, sketch, settings.optimizer, launch, gpus.memory)
    expected = predicted(
        settings,
        "sd35_medium",
        found,
        processes=gpus.count,
        compiled=False,
        memory=gpus.memory,
    )
    assert peak_text(RunContainer(settings=settings), sketch, found, gpus) == expected.described()


def test_eight_share_what_one_cannot_hold():
    settings = settings_of("sd35_medium", "bridge")
    sketch = settings.tuning(
        backbone_of(settings, "sd35_medium", META, small=False), generator=torch.Generator()
    )
    given = settings, sketch, settings.optimizer
    alone, needs = division_of(*given, Launch(), 40 * GIB)
    assert alone == Division() and alone.total(needs) > 40 * GIB
    shared, needs = division_of(*given, Launch(size=8, local_size=8), 40 * GIB)
    assert shared.shard == 8 and shared.total(needs) < 0.7 * 40 * GIB


@pytest.mark.parametrize("device", [[], ["run.device=cuda", "run.attention=auto"]])
def test_the_command_predicts_for_gpus_that_are_not_here(device, auto, capsys):
    assert main([auto, *device, "batching.global=16", "--check", "--on", "80"]) == 0
    one = " ".join(capsys.readouterr().out.split())
    assert "peak predicted on 1 GPU of 80.0 GiB, not looked at: about " in one
    assert "MiB on cuda at the peak, in " in one and "processes" not in one
    assert main([auto, *device, "batching.global=16", "--check", "--on", "8x80"]) == 0
    eight = " ".join(capsys.readouterr().out.split())
    assert "predicted on 8 GPUs of 80.0 GiB each, not looked at: about " in eight
    assert "processes 8, each with the whole model, each with 2 of a step's 16 samples" in eight
    # So small that nothing fits: all is divided, and the excess is told.
    assert main([auto, *device, "batching.global=16", "--check", "--on", "8x0.0001"]) == 0
    small = " ".join(capsys.readouterr().out.split())
    assert "processes 8, which share one model" in small and "; more than the 0.1 MiB" in small


def test_without_it_the_device_is_that_of_the_run(auto, capsys):
    assert main([auto, "--check"]) == 0
    told = capsys.readouterr().out
    assert "MiB on cpu at the peak" in told and "predicted on" not in told


def test_what_is_tried_is_tried_on_this_machine(auto, tmp_path, monkeypatch, capsys):
    (tmp_path / "own_reward.py").write_text(
        "def red(images, prompts):\n"
        "    assert images.device.type == 'cpu'\n"
        "    return images[:, 0].mean((1, 2))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    typed = [auto, "run.device=cuda", "reward=null", "reward={name: 'own_reward:red'}"]
    assert main([*typed, "--check", "--on", "80"]) == 0
    assert "without the reward" in " ".join(capsys.readouterr().out.split())


def test_the_kernel_of_attention_is_judged_for_cuda(auto, capsys):
    half = "backbone.policy={weights: float32, compute: bfloat16}"
    assert main([auto, "run.attention=flash", half, "--check", "--on", "80"]) == 0
    capsys.readouterr()
    assert main([auto, "run.attention=flash", "--check", "--on", "80"]) == 2
    assert "run.attention: is 'flash', a kernel of half precision" in capsys.readouterr().err
    assert main([auto, "run.attention=flash", half, "--check"]) == 2
    assert "a kernel of CUDA, and the device is cpu" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("typed", "on", "said"),
    [
        ("run.device=cpu", "80", "is 'cpu', and --on is for CUDA; write cuda or auto, or omit"),
        ("run.device=meta", "80", "is 'meta', and --on is for CUDA"),
        ("run.device=cuda:1", "8x80", "is 'cuda:1', and --on names 8 GPUs; write cuda or auto"),
        ("batching.global=12", "8x80", "batching.global: "),
        ("distributed.shard=3", "8x80", "must divide the 8 processes of the run, got 3"),
    ],
)
def test_what_such_gpus_cannot_do_is_refused(typed, on, said, auto, capsys):
    assert main([auto, typed, "--check", "--on", on]) == 2
    told = capsys.readouterr().err
    assert said in told and "Traceback" not in told and "1 problem " in told


WRONG = ["0", "0.0", "x80", "8x", "0x80", "eighty", "8*80", "80GB", "81920", "nan", "١x80", ""]


@pytest.mark.parametrize("written", WRONG)
def test_what_names_no_gpus_is_refused(written, auto, capsys):
    with pytest.raises(SystemExit) as ended:
        main([auto, "--check", "--on", written])
    assert ended.value.code == 2
    last = capsys.readouterr().err.splitlines()[-1]
    assert (
        "argument --on: must be the GiB of a GPU, or how many GPUs and the GiB of each, got "
        in (last)
    )
    assert last.endswith(f"got {written!r}; write it like 80 or 8x80")


@pytest.mark.parametrize("also", [[], ["--resume"], ["--keys"], ["--presets"]])
def test_it_is_refused_without_check(also, auto, capsys):
    with pytest.raises(SystemExit) as ended:
        main([*([] if also else [auto]), *also, "--on", "80"])
    assert ended.value.code == 2
    assert capsys.readouterr().err.endswith(
        "error: give --on with --check; a run takes the devices that are here\n"
    )


@pytest.mark.parametrize(
    ("written", "gpus"),
    [("80", (1, 80 * GIB)), ("8x80", (8, 80 * GIB)), ("2x79.5", (2, 159 * GIB // 2))],
)
def test_numbers_are_read_as_gib(written, gpus):
    assert attrs.astuple(Gpus.of(written)) == gpus
