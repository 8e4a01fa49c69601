"""What a model family's folder holds, and whether a source has it: found before any is loaded."""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import attrs

from flowbp.adapters.component_files import check_component, check_json_files
from flowbp.adapters.extras import require
from flowbp.adapters.hub import cached_folder, hub_file, is_offline, why_unread
from flowbp.adapters.source import (
    check_pipeline,
    check_tokenizer_files,
    has_component,
    local_folder,
    pipeline_index,
    read_json,
)


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

    Example:
        >>> layout = Layout(
        ...     pipeline="FluxPipeline",
        ...     models={"vae": ("diffusers", "AutoencoderKL")},
        ...     others=("scheduler",),
        ... )
        >>> layout.needed
        ('vae', 'scheduler')
    """

    pipeline: str
    models: Mapping[str, tuple[str, str]]
    others: tuple[str, ...]
    optional: tuple[str, ...] = ()
    option: str = ""
    unused: tuple[str, ...] = ()

    @property
    def needed(self) -> tuple[str, ...]:
        """The components that every source must have."""
        return tuple(name for name in (*self.models, *self.others) if name not in self.optional)


def components_of(
    source: str | os.PathLike[str], layout: Layout, optional: bool | None
) -> tuple[str, ...]:
    """The components that are to be loaded, after all of their files were checked.

    Args:
        source: A hub id or a folder in diffusers layout.
        layout: What it must hold.
        optional: See `flowbp.adapters.load_pipeline`.

    Returns:
        Their names.

    Raises:
        FileNotFoundError: No such source, or a component's folder or files are missing.
        ValueError: Another pipeline class, or a component that could not be loaded.

    Warns:
        UserWarning: The source names no optional component, and `optional` is None.

    Example:
        >>> from flowbp.adapters import SD3Backbone
        >>> from flowbp.shapes.embedded import base_folder
        >>> "text_encoder_3" in components_of(base_folder(), SD3Backbone.layout, False)
        False
    """
    index = pipeline_index(source, from_hub=_hub_index)
    check_pipeline(source, index, pipeline=layout.pipeline, components=())
    taken = _wanted(source, index, layout, optional)
    check_pipeline(source, index, pipeline=layout.pipeline, components=taken)
    place = local_folder(source) or str(source)
    for name in taken:
        check_files(place, layout, name)
    return taken


def _wanted(
    source: str | os.PathLike[str],
    index: Mapping[str, Any],
    layout: Layout,
    optional: bool | None,
) -> tuple[str, ...]:
    """The components to load; whether the optional ones are among them is said, or warned of."""
    if not layout.optional or optional is False:
        return layout.needed
    everything = (*layout.models, *layout.others)
    if optional or any(has_component(index, name) for name in layout.optional):
        folder = local_folder(source)
        absent = [
            name
            for name in layout.optional
            if not has_component(index, name) or (folder and not (folder / name).is_dir())
        ]
        if absent:
            raise FileNotFoundError(
                f"`source` {str(source)!r} lacks {', '.join(absent)}, without which prompts are "
                "read otherwise; copy or download the whole pipeline, or write "
                f"{layout.option}=false to do without"
            )
        return everything
    warnings.warn(
        f"`source` {str(source)!r} is a model without {', '.join(layout.optional)}, as its "
        f"model_index.json says; write {layout.option}=false to say that this is meant",
        stacklevel=5,
    )
    return layout.needed


def component_folder(place: Path | str, name: str) -> Path | None:
    """Where a component is on disk.

    Args:
        place: A folder, or a hub id.
        name: Of the component.

    Returns:
        Its folder; None of a repository of which the cache does not have it.

    Example:
        >>> component_folder(Path("model"), "vae")
        PosixPath('model/vae')
    """
    return place / name if isinstance(place, Path) else cached_folder(place, name)


def check_files(place: Path | str, layout: Layout, name: str) -> str | None:
    """Refuse files of a component that could not be loaded.

    Args:
        place: A folder, or a hub id; of a repository what the cache has is looked at.
        layout: What it holds.
        name: Of the component.

    Returns:
        The variant of its weights where there are no others, else None.

    Raises:
        FileNotFoundError: A file is missing, and no hub may be asked for it.
        ValueError: A file that could not be loaded.

    Example:
        See `components_of`.
    """
    folder = component_folder(place, name)
    if name not in layout.models:
        if folder is None and isinstance(place, str):
            return None
        assert folder is not None
        check_json_files(folder)
        if name.startswith("tokenizer"):
            check_tokenizer_files(folder)
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
        raise FileNotFoundError(
            f"`source` {place!r} could not be read, its {name}: {why_unread(missing, place)}"
        ) from error


def _hub_index(hub_id: str) -> Mapping[str, Any]:
    return read_json(hub_file(hub_id, "model_index.json"), what="a folder in diffusers layout")
