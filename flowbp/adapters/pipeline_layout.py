"""What a model family's folder holds, and whether a source has it, before any is loaded."""

from __future__ import annotations

import inspect
import os
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from flowbp.adapters.component_files import (
    check_component,
    check_config,
    check_text_files,
    unread,
)
from flowbp.extras import require
from flowbp.hub import (
    ALL_FILES,
    WEIGHT_FILES,
    cached_file,
    is_offline,
    local_folder,
    read_json,
    resolve,
    why_unread,
)

FAMILIES: dict[str, str] = {}
"""Every family that is imported, by the pipeline that it loads."""


@attrs.frozen(kw_only=True)
class Layout:
    """What a model family's pipeline folder holds.

    Args:
        pipeline: The diffusers class that model_index.json must name.
        models: Component with weights to the library and class that load it; the one that is
            trained is called ``transformer``.
        others: Components without weights: tokenizers and the scheduler.
        optional: Of these components, those that may be absent, all of them together.
        option: The argument by which a user does without these.
        unused: Components of the pipeline class that sampling from text does not need.
        since: The first version of diffusers whose pipeline samples as the backbone does.
    """

    pipeline: str
    models: Mapping[str, tuple[str, str]]
    others: tuple[str, ...]
    optional: tuple[str, ...] = ()
    option: str = ""
    unused: tuple[str, ...] = ()
    since: tuple[int, int] = (0, 0)

    @property
    def needed(self) -> tuple[str, ...]:
        """The components that every source must have."""
        return tuple(name for name in (*self.models, *self.others) if name not in self.optional)


def components_of(
    source: str | os.PathLike[str], layout: Layout, optional: bool | None
) -> dict[str, str | None]:
    """The components to load, all of whose files were checked; see `check_components`."""
    place = local_folder(source) or str(source)
    index = pipeline_index(place, layout)
    return check_components(place, layout, index, _wanted(place, index, layout, optional))


def pipeline_index(place: Path | str, layout: Layout) -> Mapping[str, Any]:
    """The ``model_index.json`` of a family's pipeline: component to library and class."""
    if isinstance(place, Path) and not (place / "model_index.json").is_file():
        _refuse_parts(place)
    index = read_stated(place, "model_index.json")
    found = index.get("_class_name")
    if found != layout.pipeline:
        other = FAMILIES.get(str(found))
        cure = f"write backbone.name={other}" if other else "no backbone here samples as that does"
        raise ValueError(
            f"`source` must hold a {layout.pipeline}, got {found} in {str(place)!r}; {cure}"
        )
    return index


def _wanted(
    place: Path | str, index: Mapping[str, Any], layout: Layout, optional: bool | None
) -> Sequence[str]:
    """The components to load; warns where nothing says whether the optional ones are meant."""
    if not layout.optional or optional is False:
        return layout.needed
    named = [name for name in layout.optional if has_component(index, name)]
    if not optional and not named:
        warnings.warn(
            f"`source` {str(place)!r} is a model without {', '.join(layout.optional)}, as its "
            f"model_index.json says; write {layout.option}=false to say that this is meant",
            stacklevel=7,
        )
        return layout.needed
    there = [n for n in named if isinstance(place, str) or (place / n).is_dir()]
    absent = [name for name in layout.optional if name not in there]
    if absent:
        raise FileNotFoundError(
            f"`source` {str(place)!r} lacks {', '.join(absent)}, without which prompts are "
            "read otherwise; copy or download the whole pipeline, or write "
            f"{layout.option}=false to do without"
        )
    return (*layout.models, *layout.others)


def check_components(
    place: Path | str, layout: Layout, index: Mapping[str, Any], names: Sequence[str]
) -> dict[str, str | None]:
    """Refuse components that are absent or could not be loaded; the variants of their weights."""
    without = [name for name in names if not has_component(index, name)]
    if without:
        raise ValueError(
            f"`source` {str(place)!r} must have the components {', '.join(names)}; "
            f"its model_index.json lacks {', '.join(without)}"
        )
    if isinstance(place, Path):
        missing = [name for name in names if not (place / name).is_dir()]
        if missing:
            raise FileNotFoundError(
                f"`source` {str(place)!r} lacks the folders {', '.join(missing)} that its "
                "model_index.json names; copy or download the whole pipeline"
            )
    return {name: check_files(place, layout, name) for name in names}


def check_files(place: Path | str, layout: Layout, name: str) -> str | None:
    """Refuse files of a component that could not be loaded; the variant of its weights, if any.

    Of a repository what the cache has is looked at.
    """
    folder = _component_folder(place, name)
    if name not in layout.models:
        if folder is not None:
            check_text_files(folder)
        return None
    try:
        if folder is None:
            raise FileNotFoundError(f"{name} is not in the cache")
        return check_component(folder, *layout.models[name])
    except FileNotFoundError as error:
        if isinstance(place, Path):
            raise
        # What the cache lacks is fetched where the hub may be asked.
        if not is_offline():
            return None
        missing = require("huggingface_hub.errors").LocalEntryNotFoundError(str(error))
        raise unread(place, name, why_unread(missing, place)) from error


def _component_folder(place: Path | str, name: str) -> Path | None:
    """Where a component is on disk; None of a repository of which the cache does not have it."""
    if isinstance(place, Path):
        return place / name
    config = cached_file(place, f"{name}/config.json")
    return None if config is None else config.parent


def config_folder(place: Path | str, name: str) -> Path:
    """The folder with a component's configuration, which is fetched where the cache lacks it."""
    # Not left to diffusers: it does not expand ~, and takes a hub that is out of reach for one that
    # has no such file.
    return _component_folder(place, name) or _file(place, f"{name}/config.json").parent


def _file(place: Path | str, name: str) -> Path:
    return place / name if isinstance(place, Path) else resolve(place, name, wanted=ALL_FILES)


def has_component(index: Mapping[str, Any], name: str) -> bool:
    """Whether the index names a class for component `name`."""
    entry = index.get(name)
    return (
        isinstance(entry, list) and len(entry) == 2 and all(isinstance(part, str) for part in entry)
    )


def _refuse_parts(folder: Path) -> None:
    """Refuse a folder without an index by what it is, where that can be seen."""
    whole = f"`source` must be a whole pipeline in diffusers layout, got {str(folder)!r}, which has"
    config = folder / "config.json"
    if config.is_file():
        kind = read_json(config, what="a model").get("_class_name") or "a single model"
        raise FileNotFoundError(
            f"{whole} no model_index.json and is {kind} alone; copy it into the folder of a whole "
            "pipeline in place of the component of that class"
        )
    adapters = ("pytorch_lora_weights.safetensors", "adapter_config.json")
    if any((folder / name).is_file() for name in adapters):
        raise FileNotFoundError(
            f"{whole} no model_index.json and is a LoRA; name the model it belongs to, and the "
            "LoRA as tuning={name: lora, start: folder} or, in an evaluation, as a checkpoint"
        )
    single = sorted(path.name for path in folder.iterdir() if path.suffix in WEIGHT_FILES)
    if single:
        raise FileNotFoundError(
            f"{whole} no model_index.json but {single[0]}; single files are not read, convert it "
            "once with diffusers: StableDiffusion3Pipeline or FluxPipeline"
            ".from_single_file(file).save_pretrained(folder)"
        )


def read_config(source: str | os.PathLike[str], layout: Layout, name: str) -> Mapping[str, Any]:
    """The configuration of a diffusers component, with the defaults of what it leaves out."""
    folder = config_folder(local_folder(source) or str(source), name)
    library, kind = layout.models[name]
    component: Any = getattr(require(library), kind)
    config = check_config(folder, library, kind)
    arguments = inspect.signature(component.__init__).parameters.values()
    defaults = {each.name: each.default for each in arguments if each.default is not each.empty}
    return defaults | dict(config)


def read_stated(source: str | os.PathLike[str], file: str) -> Mapping[str, Any]:
    """A JSON file of a pipeline that belongs to no network, as it is written."""
    path = _file(local_folder(source) or str(source), file)
    return read_json(path, what="a folder in diffusers layout")
