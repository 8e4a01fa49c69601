"""Where a pipeline is read from: a folder or a repository of the hub, and which of its files."""

from __future__ import annotations

from pathlib import Path

import attrs

from flowbp.hub import cached_file, check_revision
from flowbp.place import Place, local_folder


@attrs.frozen
class PipelineSource:
    """A folder in diffusers layout, or a hub id at a revision.

    Args:
        source: ``owner/name`` or a folder.
        revision: A branch, tag or commit of the repository; None is its main branch.
        variant: Of the weights, such as ``fp16``; None takes the plain ones.
        transformer: A single file of weights, in place of those of the source.
    """

    source: Place
    revision: str | None = None
    variant: str | None = None
    transformer: Place | None = None

    def __str__(self) -> str:
        return str(self.source)

    @property
    def place(self) -> Path | str:
        """The folder, with ``~`` expanded, or the hub id."""
        return local_folder(self.source) or str(self.source)

    @property
    def options(self) -> dict[str, str]:
        """The arguments, besides the place, that ``from_pretrained`` of diffusers needs."""
        given = {"revision": self.revision, "variant": self.variant}
        return {name: value for name, value in given.items() if value is not None}

    def component(self, name: str) -> Path | None:
        """Where a component is on disk; None of a repository whose cache does not have it."""
        place = self.place
        if isinstance(place, Path):
            return place / name
        config = cached_file(place, f"{name}/config.json", revision=self.revision)
        return None if config is None else config.parent

    def check(self) -> None:
        """Refuse a revision of a folder, or one that is known not to be there."""
        for name, text in self.options.items():
            if not text.strip():
                raise ValueError(f"`{name}` must be a name, got {text!r}; write null for none")
        if self.revision is None:
            return
        place = self.place
        if isinstance(place, Path):
            raise ValueError(
                f"`revision` must be left out for a folder, got {self.revision!r} of "
                f"{str(self.source)!r}; a folder has one state: name its hub id, or write "
                "revision=null"
            )
        check_revision(place, self.revision)
