"""The embedded world: pictures of coloured shapes, their captions, and the checker of both."""

from __future__ import annotations

from flowbp.shapes.checker import ShapesChecker as ShapesChecker
from flowbp.shapes.checker import check as check
from flowbp.shapes.checker import satisfies as satisfies
from flowbp.shapes.prompts import COUNTS as COUNTS
from flowbp.shapes.prompts import PROMPT_KINDS as PROMPT_KINDS
from flowbp.shapes.prompts import RELATIONS as RELATIONS
from flowbp.shapes.prompts import VOCABULARY as VOCABULARY
from flowbp.shapes.prompts import Prompt as Prompt
from flowbp.shapes.prompts import Wanted as Wanted
from flowbp.shapes.prompts import all_prompts as all_prompts
from flowbp.shapes.prompts import heldout_prompts as heldout_prompts
from flowbp.shapes.prompts import is_held_out as is_held_out
from flowbp.shapes.prompts import parse as parse
from flowbp.shapes.prompts import training_prompts as training_prompts
from flowbp.shapes.render import render as render
from flowbp.shapes.scene import COLOURS as COLOURS
from flowbp.shapes.scene import GAP as GAP
from flowbp.shapes.scene import KINDS as KINDS
from flowbp.shapes.scene import SIZE as SIZE
from flowbp.shapes.scene import Scene as Scene
from flowbp.shapes.scene import Shape as Shape
from flowbp.shapes.scene_reading import Reading as Reading
from flowbp.shapes.scene_reading import read_scenes as read_scenes
from flowbp.shapes.scene_sampling import sample_scene as sample_scene
