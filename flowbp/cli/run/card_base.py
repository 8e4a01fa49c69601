"""The model before training, as a model card names it."""

from __future__ import annotations

from pathlib import Path

import attrs

import flowbp
from flowbp.cli.run.built_run import BuiltRun
from flowbp.cli.run.card_text import code, public
from flowbp.extras import require
from flowbp.hub import address, cached_file
from flowbp.place import is_hub_id, on_disk
from flowbp.settings.unloaded_model import named_model

_OWN_FILES = Path(flowbp.__file__).parent


@attrs.frozen
class BaseModel:
    """The model before training."""

    # As the settings name it; None where they do not.
    source: str | None
    title: str
    revision: str | None = None
    # Of the transformer, where it is not the source's.
    file: str | None = None

    @classmethod
    def of(cls, run: BuiltRun) -> BaseModel:
        if "backbone" in run.replaced:
            return cls(None, "A backbone of its own")
        backbone = run.settings.backbone
        model = named_model(backbone)
        source = backbone.arguments.get("source") if model is None else model.source
        if source is None:
            return cls(None, backbone.name)
        place, file = str(source), backbone.arguments.get("transformer")
        title = backbone.name if _is_own(place) else public(place)
        revision = backbone.arguments.get("revision")
        return cls(place, title, revision, None if file is None else str(file))

    @property
    def place(self) -> Path | None:
        """Its folder, where it is on this machine."""
        return None if self.source is None else on_disk(self.source)

    @property
    def hub_id(self) -> str | None:
        """Its id; the hub refuses a card whose `base_model` is none, such as a local folder."""
        return self.title if self.source is not None and is_hub_id(self.title) else None

    @property
    def published(self) -> str | None:
        """The id of the very weights that were trained."""
        return self.hub_id if self.file is None else None

    @property
    def is_own(self) -> bool:
        """Whether it comes with flowbp."""
        return self.source is not None and _is_own(self.source)

    @property
    def described(self) -> str:
        if self.file is not None:
            rest = attrs.evolve(self, file=None).described
            return f"the transformer in {code(Path(self.file).name)}, and all else of {rest}"
        if self.hub_id is not None:
            return f"[{self.title}]({address(self.title)})"
        if self.is_own:
            return "the small model of coloured shapes that comes with flowbp"
        local = "" if self.place is None else ", a local folder"
        return f"{code(self.title)}{local}"

    def licence(self) -> dict[str, str]:
        """The keys of its own card that say under what licence it is; none if none are known."""
        if self.file is not None:
            return {}
        if self.is_own:
            return {"license": "apache-2.0"}
        if self.place is not None:
            card: Path | None = self.place / "README.md"
        else:
            card = None
            if self.hub_id is not None:
                card = cached_file(self.hub_id, "README.md", revision=self.revision)
        if card is None or not card.is_file():
            return {}
        try:
            data = require("huggingface_hub").metadata_load(card) or {}
        # Anyone may have written it, as anything.
        except Exception:
            return {}
        if not isinstance(data.get("license"), str):
            return {}
        names = ("license", "license_name", "license_link")
        found = {name: data[name] for name in names if isinstance(data.get(name), str)}
        link = found.get("license_link")
        if link is not None and "://" not in link:
            # It is a file beside that card, not beside this one.
            del found["license_link"]
            if self.hub_id is not None:
                found["license_link"] = (
                    f"{address(self.hub_id)}/blob/{self.revision or 'main'}/{link}"
                )
        return found


def _is_own(source: str) -> bool:
    return Path(source).is_relative_to(_OWN_FILES)
