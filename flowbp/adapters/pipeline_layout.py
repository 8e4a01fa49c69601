"""What a model family's folder holds, and whether a source has it, before any is loaded."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import attrs

from flowbp.adapters.component_files import (
    check_component,
    check_config,
    check_text_files,
    chosen_variant,
    unread,
    variants_of,
)
from flowbp.adapters.pipeline_source import PipelineSource
from flowbp.adapters.single_file import single_file
from flowbp.extras import require
from flowbp.hub import ALL_FILES, hub_files, is_offline, why_unread
from flowbp.place import SINGLE_FILE_CURE, WEIGHT_FILES, read_json
from flowbp.source_files import resolve

TRANSFORMER = "transformer"
"""The component that is trained."""

FAMILIES: dict[str, str] = {}
"""Every family that is imported, by the pipeline that it loads."""


@attrs.frozen(kw_only=True)
class Layout:
    """What a model family's pipeline folder holds.

    Args:
        pipeline: The diffusers class that model_index.json must name.
        models: Component with weights to the library and class that load it; the one that is
            trained is called `TRANSFORMER`.
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
    source: PipelineSource, layout: Layout, optional: bool | None
) -> dict[str, str | None]:
    """The components to load, all of whose files were checked; see `check_components`."""
    source.check()
    index = pipeline_index(source, layout)
    return check_components(source, layout, index, _wanted(source, index, layout, optional))


def pipeline_index(source: PipelineSource, layout: Layout) -> Mapping[str, Any]:
    """The ``model_index.json`` of a family's pipeline: component to library and class."""
    place = source.place
    if isinstance(place, Path) and not (place / "model_index.json").is_file():
        _refuse_parts(place)
    index = read_stated(source, "model_index.json")
    found = index.get("_class_name")
    if found != layout.pipeline:
        other = FAMILIES.get(str(found))
        cure = f"write backbone.name={other}" if other else "no backbone here samples as that does"
        raise ValueError(
            f"`source` must hold a {layout.pipeline}, got {found} in {str(place)!r}; {cure}"
        )
    return index


def _wanted(
    source: PipelineSource, index: Mapping[str, Any], layout: Layout, optional: bool | None
) -> Sequence[str]:
    """The components to load; warns where nothing says whether the optional ones are meant."""
    place = source.place
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
    source: PipelineSource, layout: Layout, index: Mapping[str, Any], names: Sequence[str]
) -> dict[str, str | None]:
    """Refuse components that are absent or could not be loaded; the variants of their weights.

    As in diffusers, a component without the variant that is asked for has its plain weights loaded,
    but not all of them may.
    """
    place = source.place
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
    found = {name: check_files(source, layout, name) for name in names}
    if source.variant is not None and source.variant not in found.values():
        others = sorted(_all_variants(source, layout, names))
        there = f"has {', '.join(others)}" if others else "has plain weights alone"
        raise ValueError(
            f"`variant` must be one that a component of {str(place)!r} has, got "
            f"{source.variant!r}; it {there}: write variant={others[0] if others else 'null'}"
        )
    return found


def _all_variants(source: PipelineSource, layout: Layout, names: Sequence[str]) -> set[str]:
    """The variants that are known to be there, without the plain weights."""
    found: set[str] = set()
    for name in layout.models.keys() & names:
        files = _hub_names(source, name)
        folder = source.component(name)
        if files is None and folder is not None:
            files = [path.name for path in folder.iterdir()]
        found |= {*variants_of(files or (), layout.models[name][0])}
    return found - {""}


def _hub_names(source: PipelineSource, name: str) -> list[str] | None:
    """The files of a component of a repository; None of a folder, or where the hub does not say."""
    place = source.place
    files = None if isinstance(place, Path) else hub_files(place, revision=source.revision)
    if files is None:
        return None
    return [file.removeprefix(f"{name}/") for file in files if file.startswith(f"{name}/")]


def check_files(source: PipelineSource, layout: Layout, name: str) -> str | None:
    """Refuse files of a component that could not be loaded; the variant of its weights, if any.

    Of a repository what the cache has is looked at, and asked for a variant that it lacks, the hub.
    """
    place, folder = source.place, source.component(name)
    if name == TRANSFORMER and source.transformer is not None:
        single_file(source.transformer)
        check_config(config_folder(source, name), *layout.models[name])
        return None
    if name not in layout.models:
        if folder is not None:
            check_text_files(folder)
        return None
    try:
        if folder is None:
            raise FileNotFoundError(f"{name} is not in the cache")
        found = check_component(folder, *layout.models[name], source.variant)
        if source.variant in (None, found) or isinstance(place, Path):
            return found
    except FileNotFoundError as error:
        if isinstance(place, Path):
            raise
        # What the cache lacks is fetched where the hub may be asked.
        if is_offline():
            missing = require("huggingface_hub.errors").LocalEntryNotFoundError(str(error))
            why = why_unread(missing, place, revision=source.revision)
            raise unread(place, name, why) from error
    if source.variant is None:
        return None
    variants = variants_of(_hub_names(source, name) or (), layout.models[name][0])
    return chosen_variant(variants or [""], source.variant, f"{place}/{name}") or None


def config_folder(source: PipelineSource, name: str) -> Path:
    """The folder with a component's configuration, which is fetched where the cache lacks it."""
    # Not left to diffusers: it does not expand ~, and takes a hub that is out of reach for one that
    # has no such file.
    return source.component(name) or _file(source, f"{name}/config.json").parent


def _file(source: PipelineSource, name: str) -> Path:
    place = source.place
    if isinstance(place, Path):
        return place / name
    return resolve(place, name, wanted=ALL_FILES, revision=source.revision)


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
        raise FileNotFoundError(f"{whole} no model_index.json but {single[0]}; {SINGLE_FILE_CURE}")


def read_config(source: PipelineSource, layout: Layout, name: str) -> Mapping[str, Any]:
    """The configuration of a diffusers component, with the defaults of what it leaves out."""
    source.check()
    folder = config_folder(source, name)
    library, kind = layout.models[name]
    component: Any = getattr(require(library), kind)
    config = check_config(folder, library, kind)
    arguments = inspect.signature(component.__init__).parameters.values()
    defaults = {each.name: each.default for each in arguments if each.default is not each.empty}
    return defaults | dict(config)


def read_stated(source: PipelineSource, file: str) -> Mapping[str, Any]:
    """A JSON file of a pipeline that belongs to no network, as it is written."""
    path = _file(source, file)
    return read_json(path, what="a folder in diffusers layout")
