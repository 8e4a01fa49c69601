"""Frozen text encoders: run, offloaded, and checked against their transformer."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, ClassVar, Self

import attrs
import torch
from torch import Tensor, nn

from flowbp.adapters.backbone import Conditioning
from flowbp.adapters.dtype_policy import CPU, FLOAT32, DtypePolicy

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


class Offloadable:
    """Holds a frozen network, which goes to its device when it is used.

    Offloaded, it leaves its device, or memory if it can be reloaded.
    """

    def __init__(self, module: Any) -> None:
        self._module: Any = _frozen(module)
        self._load: Callable[[], Any] | None = None
        self.origin = ""
        self._policy = FLOAT32
        self._device = CPU
        self._away = False
        self._placed = True

    def place(self, policy: DtypePolicy, device: torch.device) -> None:
        """Cast it, and have it move to a device when it is used, now and whenever it comes back."""
        self._policy, self._device, self._placed = policy, device, False
        nn.Module.to(self._module, dtype=policy.weights)

    def reload_with(self, load: Callable[[], Any], origin: str = "") -> None:
        """Load the network from `origin` by `load` when it is needed again, on the CPU."""
        self._load, self.origin = load, origin

    @property
    def offloaded(self) -> bool:
        """Whether it is away from its device."""
        return self._away

    def ready(self) -> Any:
        """The network where it was placed; one that was offloaded comes back to stay."""
        if self._away or not self._placed:
            self._module = self.anywhere()
            self._policy.place(self._module, self._device)
            self._away, self._placed = False, True
        return self._module

    def anywhere(self) -> Any:
        """The network wherever it is; one that has left memory is loaded for the caller alone."""
        if self._module is not None or self._load is None:
            return self._module
        return _frozen(self._load())

    def offload(self) -> None:
        """Free the memory of its device."""
        self._away = True
        if self._load is not None:
            self._module = None
        elif self._device.type != "cpu":
            nn.Module.to(self._module, CPU)


def _frozen(module: Any) -> Any:
    return module.requires_grad_(False).eval()


@attrs.frozen(eq=False)
class TextTower:
    """A frozen text encoder with the tokenizer it was trained with."""

    held: Offloadable = attrs.field(converter=Offloadable, alias="encoder")
    tokenizer: PreTrainedTokenizerBase

    @property
    def encoder(self) -> PreTrainedModel:
        """The encoder on its device; one that was offloaded is loaded again."""
        return self.held.ready()

    def lengths(self, texts: Sequence[str]) -> list[int]:
        """How many tokens each text has, none of them cut."""
        with _unchanged(self.tokenizer):
            return [len(ids) for ids in self.tokenizer(list(texts), verbose=False).input_ids]

    def tokens(
        self, prompts: Sequence[str], length: int, *, cure: str | None = None
    ) -> tuple[Tensor, Tensor]:
        """Token numbers and mask (B, length), 0 at the padding; given a `cure`, warns of cuts."""
        prompts = list(prompts)
        if cure is not None:
            longest = max(self.lengths(prompts))
            if longest > length:
                warnings.warn(
                    f"a prompt has {longest} tokens and only the first {length} are read; {cure}",
                    CutPromptWarning,
                    stacklevel=2,
                )
        with _unchanged(self.tokenizer):
            batch = self.tokenizer(
                prompts,
                padding="max_length",
                max_length=length,
                truncation=True,
                return_tensors="pt",
            )
        return batch.input_ids, batch.attention_mask


@contextmanager
def _unchanged(tokenizer: Any) -> Iterator[None]:
    # A tokenizer writes the padding and cut of its last call into its file, and what is saved
    # must not depend on whether embeddings were cached.
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        yield
        return
    padding, truncation = backend.padding, backend.truncation
    try:
        yield
    finally:
        if padding is None:
            backend.no_padding()
        else:
            backend.enable_padding(**padding)
        if truncation is None:
            backend.no_truncation()
        else:
            backend.enable_truncation(**truncation)


class CutPromptWarning(UserWarning):
    """A prompt is longer than what the text encoders read."""


@attrs.frozen
class CutPrompt:
    """A prompt of which the end is not read."""

    prompt: str
    tokens: int
    read: int

    def __str__(self) -> str:
        shown = self.prompt if len(self.prompt) <= 60 else f"{self.prompt[:60]}…"
        return f"{shown!r} ({self.tokens} tokens, {self.read} read)"


@attrs.frozen(kw_only=True, eq=False)
class TextEncoders:
    """The text encoders of a backbone and all that its embeddings depend on besides.

    Args:
        family: Of the model; two families may use the same encoder in other ways.
        towers: Encoder with tokenizer by the component's name.
        read: Tower to the number of tokens that it reads; a prompt counts as cut if all of these
            cut it. Towers that only repeat what another reads in full are left out.
        facts: Whatever else changes the embeddings: lengths, layers, dtypes.
        device: Where the encoders run.
        written: The text that a prompt becomes before it is cut into tokens.
        cure: What to do about prompts that are cut.
        alone: Context in which what else is on their device makes room for them.
    """

    family: str
    towers: Mapping[str, TextTower]
    read: Mapping[str, int]
    facts: Mapping[str, object]
    device: torch.device
    written: Callable[[str], str] = str
    cure: str = "shorten them"
    alone: Callable[[], AbstractContextManager[None]] | None = None

    def cut(self, prompts: Sequence[str]) -> tuple[CutPrompt, ...]:
        """The prompts that are longer than what is read of them, in their order."""
        remaining = [CutPrompt(prompt, 0, 0) for prompt in prompts]
        for name, length in self.read.items():
            if not remaining:
                break
            lengths = self.towers[name].lengths([self.written(each.prompt) for each in remaining])
            remaining = [
                CutPrompt(each.prompt, tokens, length) if length > each.read else each
                for each, tokens in zip(remaining, lengths, strict=True)
                if tokens > length
            ]
        return tuple(remaining)

    def offload(self) -> None:
        """Free the memory that the encoders take on their device; they come back when needed."""
        for tower in self.towers.values():
            tower.held.offload()
        torch.cuda.empty_cache()

    @contextmanager
    def borrowed(self) -> Iterator[None]:
        """Context in which offloaded encoders come back when used, to be offloaded at its end.

        So are all of them where others have made room, and come back after it.
        """
        towers, alone = self.towers.values(), self.alone
        away = [each.held for each in towers if alone is not None or each.held.offloaded]
        with nullcontext() if alone is None else alone():
            try:
                yield
            finally:
                for held in away:
                    held.offload()
                if away:
                    torch.cuda.empty_cache()


@attrs.frozen(kw_only=True, eq=False)
class PromptEncoder(ABC):
    """A family's text encoders, which encode prompts exactly as its pipeline does.

    Construction casts the encoders and freezes them; they move to `device` when a prompt is
    encoded. A family has a field for each of its encoders, and one for each number of
    `from_transformer` that it needs.
    """

    family: ClassVar[str]
    """Two families may use the same encoder in other ways."""
    components: ClassVar[Mapping[str, str]]
    """The fields that hold encoders, to their names in the pipeline."""
    from_transformer: ClassVar[Mapping[str, str]] = {
        "width": "joint_attention_dim",
        "pooled_width": "pooled_projection_dim",
    }
    """The fields that it may have, to their names in the transformer's configuration."""
    decisive: ClassVar[tuple[str, ...]] = ("text_length",)
    """The fields, besides the dtypes, that the embeddings depend on."""

    text_length: int = 512
    policy: DtypePolicy = FLOAT32
    device: torch.device = attrs.field(default=CPU, converter=torch.device)

    def __attrs_post_init__(self) -> None:
        self.check()
        for tower in self.towers.values():
            tower.held.place(self.policy, self.device)

    @classmethod
    def from_components(cls, parts: Mapping[str, Any], **options: Any) -> Self:
        """Take the encoders of a pipeline, with the widths that its transformer reads."""
        config = parts["transformer"].config
        wanted = attrs.fields_dict(cls).keys() & cls.from_transformer
        fields: dict[str, Any] = {field: config[cls.from_transformer[field]] for field in wanted}
        for field, name in cls.components.items():
            if parts[name] is not None:
                fields[field] = TextTower(parts[name], parts[tokenizer_of(name)])
        return cls(**fields, **options)

    @property
    def towers(self) -> dict[str, TextTower]:
        """The encoders that are there, by their names in the pipeline."""
        found = {name: getattr(self, field) for field, name in self.components.items()}
        return {name: tower for name, tower in found.items() if tower is not None}

    @property
    def encoders(self) -> TextEncoders:
        """The encoders, with what their embeddings depend on."""
        return TextEncoders(
            family=self.family,
            towers=self.towers,
            read=self.read,
            facts={**{n: getattr(self, n) for n in self.decisive}, "dtypes": str(self.policy)},
            device=self.device,
            written=self.written,
            cure=self.cure,
        )

    @property
    def read(self) -> Mapping[str, int]:
        """How many tokens an encoder reads that decides what is cut: the last, which reads most."""
        return {[*self.towers][-1]: self.text_length}

    @property
    def cure(self) -> str:
        """What to do about prompts that are cut."""
        return longer_text(self.text_length, MAX_T5_LENGTH)

    def written(self, prompt: str) -> str:
        """The text that a prompt becomes before it is cut into tokens."""
        return prompt

    @abstractmethod
    def check(self) -> None:
        """Refuse what does not fit together, before anything is moved."""

    @abstractmethod
    def encoded(self, prompts: Sequence[str]) -> Conditioning:
        """Conditioning of B prompts."""

    @torch.no_grad()
    def __call__(self, prompts: Sequence[str]) -> Conditioning:
        """Conditioning of B prompts, without gradient; ``""`` is the empty prompt of guidance."""
        if isinstance(prompts, str) or not prompts:
            raise ValueError(
                f"`prompts` must be a sequence of at least one string, got {prompts!r}; "
                "write [prompt] for a single one"
            )
        return self.encoded(prompts)

    def run(self, encoder: Any, ids: Tensor, **options: Any) -> Any:
        """Run an encoder, or a part of one, where it is and in its own dtypes."""
        placed = {
            name: value.to(self.device) if isinstance(value, Tensor) else value
            for name, value in options.items()
        }
        with self.policy.autocast(self.device):
            return encoder(input_ids=ids.to(self.device), **placed)

    def run_t5(self, tower: TextTower, prompts: Sequence[str]) -> Tensor:
        """The last hidden states (B, text_length, D) of a T5, with a warning of what is cut."""
        ids, _ = tower.tokens(prompts, self.text_length, cure=self.cure)
        hidden: Tensor = self.run(tower.encoder, ids).last_hidden_state
        return hidden


def tokenizer_of(encoder: str) -> str:
    """The component that cuts text for an encoder, by diffusers' own naming."""
    return encoder.replace("text_encoder", "tokenizer")


MAX_T5_LENGTH = 512
"""The most T5 positions that the diffusers pipelines accept."""


def unpadded(states: Tensor, mask: Tensor) -> Tensor:
    """States (B, L, D) with those of the mask (B, L) first in each row, and zeros behind them."""
    kept = torch.zeros_like(states)
    for row, own, read in zip(kept, states, mask.to(states.device).bool(), strict=True):
        chosen = own[read]
        row[: len(chosen)] = chosen
    return kept


def check_chat_template(name: str, tower: TextTower) -> None:
    """Refuse a tokenizer that cannot write a prompt as a user's message."""
    if not tower.tokenizer.chat_template:
        raise ValueError(
            f"`{name}` must have a tokenizer with a chat template, got one without; copy "
            "chat_template.jinja into the tokenizer's folder, or download it again"
        )


def longer_text(length: int, most: int) -> str:
    """What to do about prompts of which `length` tokens are read and could be `most`."""
    if length >= most:
        return f"shorten them; backbone.text_length is at its largest, {most}"
    return f"shorten them, or raise backbone.text_length, up to {most}"


def check_positions(name: str, tower: TextTower, length: int) -> None:
    """Refuse a CLIP tokenizer that gives more tokens than its encoder has positions."""
    positions = tower.encoder.config.max_position_embeddings
    if length > positions:
        raise ValueError(
            f"`{name}` has {positions} positions and the first tokenizer's "
            f"model_max_length is {length}; set it to at most {positions} in "
            "tokenizer_config.json"
        )


def check_text_length(length: int, *, least: int = 1, most: int, note: str = "") -> None:
    """Refuse a number of text positions that the encoder cannot give."""
    if not least <= length <= most:
        raise ValueError(f"`text_length` must be in [{least}, {most}]{note}, got {length}")


def check_encoder_width(name: str, tower: TextTower, field: str, wanted: int) -> None:
    """Refuse an encoder of another width than the transformer reads."""
    got = getattr(tower.encoder.config.get_text_config(), field)
    if got != wanted:
        raise ValueError(
            f"`{name}` must have {field} {wanted} like the transformer, got {got}; "
            "this text encoder belongs to another transformer"
        )


def check_joined_width(name: str, width: int, joined: int, made_of: str) -> None:
    """Refuse encoders whose widths together are not what the transformer reads."""
    if joined != width:
        raise ValueError(
            f"`{name}` must be {joined}, {made_of}, got {width}; what encodes the text belongs to "
            "another transformer"
        )
