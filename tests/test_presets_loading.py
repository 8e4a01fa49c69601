"""What a run with a backbone's preset saves is loaded as the run says at its end."""

from __future__ import annotations

import pytest
import torch

from flowbp.cli.run.execution import execute
from flowbp.settings import RunContainer, load

from .adapters.adapted import PROMPTS, images_of, noise_of
from .adapters.families import FAMILIES
from .presets import BACKBONES, TINY, named, write_tiny

# The tiny tokenizers count letters.
pytestmark = pytest.mark.filterwarnings("ignore::flowbp.adapters.CutPromptWarning")
STEPS = 4


def move_far(model):
    """So far that the rounding of bfloat16 is little beside it."""
    generator = torch.Generator().manual_seed(5)
    with torch.no_grad():
        for name, parameter in model.trainable().items():
            drawn = torch.randn(parameter.shape, generator=generator)
            parameter.add_(drawn.to(parameter), alpha=0.2 if ".lora_" in name else 0.05)


def told_lines(out: str) -> str:
    """The Python that a run ends with."""
    lines = out.split("in Python\n")[1].split("\n\n")[0].splitlines()
    return "\n".join(line.removeprefix("  ") for line in lines)


def picture_of(pipeline, family, noise):
    pipeline.set_progress_bar_config(disable=True)
    call = dict(height=16, width=16, num_inference_steps=STEPS, output_type="pt")
    return family.sample(pipeline, PROMPTS, scale=1.0, latents=noise, **call).float()


@pytest.mark.parametrize("backbone", BACKBONES)
def test_the_lines_that_a_run_ends_with_load_its_model(backbone, sources, models, tmp_path, capsys):
    family = FAMILIES[TINY[backbone]]
    overlay = write_tiny(backbone, sources, models, tmp_path)
    presets = named("sparse", backbone)
    container = RunContainer(settings=load([*presets, overlay]).settings)
    move_far(container.tuned())
    execute(container)
    lines = told_lines(capsys.readouterr().out)
    assert "dtype=torch.bfloat16" in lines
    found: dict = {}
    exec(lines, found)
    pipeline, model = found["pipeline"], container.tuned()
    # Nothing but what the lines import is needed, and they sample too.
    assert [image.size for image in found["images"]] == [(16, 16)]
    dtypes = {each.dtype for each in pipeline.components.values() if hasattr(each, "dtype")}
    assert dtypes == {torch.bfloat16}
    noise = noise_of(model)
    mine, theirs = images_of(model, steps=STEPS), picture_of(pipeline, family, noise.bfloat16())
    base = type(pipeline).from_pretrained(sources[backbone], **family.reload).to(torch.bfloat16)
    before = picture_of(base, family, noise.bfloat16())
    assert (mine - theirs).abs().mean() < (before - theirs).abs().mean() / 4
