"""HPSv3: how much people would like a picture for a prompt, by a vision-language model."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING

import attrs
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from flowbp.adapters.dtype_policy import DtypePolicy
from flowbp.limits import SIDE
from flowbp.place import Place, located
from flowbp.rewards.hpsv3_model import (
    FILE,
    HUB_ID,
    QWEN2_VL_7B,
    HPSv3Model,
    check_files,
    load_model,
)
from flowbp.rewards.needs import Need, file_need, package, tokenizer_need
from flowbp.rewards.pixels import (
    CLIP_MEAN,
    CLIP_STD,
    channel_tensors,
    fit_budget,
    normalise,
    patches,
)
from flowbp.rewards.pretrained import load_tokenizer
from flowbp.rewards.reward import check_inputs, score_in_batches
from flowbp.rewards.templates import PLACE, one_place, text_or_file
from flowbp.rewards.towers import ModelReward, TowerSizes
from flowbp.validators import integer

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

PIXELS = 256 * 28 * 28
"""Pixels that HPSv3 was trained to look at: 448x448, in 256 tokens."""

_TOKENIZER = "Qwen/Qwen2-VL-7B-Instruct"
_BFLOAT16 = DtypePolicy(torch.bfloat16, torch.bfloat16)

REWARD_TOKEN = "<|Reward|>"
"""The token whose hidden state the head reads; it follows the last of Qwen2-VL's vocabulary."""

PUBLISHED_TEMPLATE = "eec53640fa8b722d1bc98497f3697eb7d0ad13afc6ced5936ee3bafc38b6e7f8"
"""SHA-256 of the question that HPSv3 was trained with, its slips and spaces included."""

_WHERE = (
    "the question that it was trained with is INSTRUCTION in hpsv3/dataset/data_collator_qwen.py "
    "of github.com/MizzenAI/HPSv3, from its first line break to the blank after the last colon, "
    f"with {PLACE} in place of its own mark for the prompt"
)

_SYSTEM = "system\nYou are a helpful assistant."
_SPECIAL = ("<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>")


def read_template(value: Place | None) -> str:
    """The question that HPSv3 is asked, given as text or as a file.

    It is not shipped, as its wording belongs to others. One that is not the published question,
    letter for letter, is warned of.
    """
    text = text_or_file(value, argument="template", asked="HPSv3", where=_WHERE)
    if hashlib.sha256(text.encode()).hexdigest() != PUBLISHED_TEMPLATE:
        warnings.warn(
            f"`template` is not what HPSv3 was trained with, so its scores differ; {_WHERE}",
            stacklevel=2,
        )
    return text


@attrs.frozen(eq=False)
class Conversation:
    """The tokens around a picture.

    ::

        <|im_start|>system … <|im_end|> <|im_start|>user <|vision_start|>   before
        one token for each 28x28 pixels                                     the picture
        <|vision_end|> template, with the prompt <|Reward|>                 after

    The published conversation goes on after the reward token, but attention is causal: nothing
    there reaches it.

    Source: Ma et al., arXiv 2508.03789; Qwen2-VL's chat template.
    """

    tokenizer: PreTrainedTokenizerBase
    template: str = attrs.field(validator=one_place)

    def __attrs_post_init__(self) -> None:
        vocabulary = self.tokenizer.get_vocab()
        unknown = [token for token in _SPECIAL if token not in vocabulary]
        if unknown:
            raise ValueError(
                f"`tokenizer` must be Qwen2-VL's, got one without {unknown[0]}; take that of "
                "Qwen/Qwen2-VL-7B-Instruct"
            )

    @property
    def reward_id(self) -> int:
        """Number of the reward token: the vocabulary's own, or the one after its last."""
        return int(self.tokenizer.get_vocab().get(REWARD_TOKEN, len(self.tokenizer)))

    @property
    def before(self) -> list[int]:
        """Tokens before the picture."""
        start, end, picture, _ = self.tokenizer.convert_tokens_to_ids(list(_SPECIAL))
        return [
            *(start, *self._encode(_SYSTEM), end, *self._encode("\n")),
            *(start, *self._encode("user\n"), picture),
        ]

    def after(self, prompt: str) -> list[int]:
        """Tokens after the picture, the last of them the reward token.

        Marks of the conversation that are written out in the prompt are text too.
        """
        end: int = self.tokenizer.convert_tokens_to_ids("<|vision_end|>")
        return [end, *self._encode(self.template.replace(PLACE, prompt)), self.reward_id]

    def _encode(self, text: str) -> list[int]:
        # A reward token or the end of the conversation within a prompt must not be one.
        ids: list[int] = self.tokenizer(
            text, add_special_tokens=False, split_special_tokens=True
        ).input_ids
        return ids


@attrs.frozen(kw_only=True, eq=False)
class HPSv3(ModelReward):
    """Human Preference Score v3: the expected preference under Qwen2-VL-7B with a small head.

    ``score = head(LM(before, vision(image), after(prompt))[<|Reward|>])[0]``, the head in float32
    whatever the policy; about 10 for a good picture, below 0 for a bad one. The prompt comes after
    the picture in the conversation, so only its tokens can be kept; they are, on the device.

    Construction loads the model; in bfloat16 the published one takes 15.5 GB. Further
    arguments are those of `ModelReward`.

    Args:
        source: The published repository, its file, or a folder or another hub id with it or with
            shards and their index.
        tokenizer: A folder or hub id of Qwen2-VL's tokenizer, with or without the reward token.
        template: What the model is asked, with ``{prompt}`` where the prompt goes, as text or the
            path of a file. It must be given: the wording that it was trained with is its authors',
            and is not shipped; the error says where to find it.
        pixels: Size to which pictures are brought, keeping their proportions.
        gradient_checkpointing: Recompute each layer of both towers in the backward pass.
        sizes: Of the model in the file.

    Raises:
        ModuleNotFoundError: transformers is not installed.
        FileNotFoundError: The hub cannot be reached, or a folder lacks files.
        ValueError: No such path, a damaged file, weights of another model, with the first key that
            does not fit; a tokenizer that does not belong to the model, a template without a place
            for the prompt, or `pixels` below one token's.

    Example:
        ``HPSv3(template="question.txt", device="cuda")(images, prompts)``

    Source: Ma et al., "HPSv3: Towards Wide-Spectrum Human Preference Score", arXiv 2508.03789;
    github.com/MizzenAI/HPSv3 (MIT), whose preparation of pictures also rounds them to 8 bits,
    which has no gradient and is left out.
    """

    source: Place = attrs.field(
        default=HUB_ID, validator=located(file=FILE, folder=f"with {FILE}, or shards and an index")
    )
    tokenizer: Place = attrs.field(
        default=_TOKENIZER, validator=located(folder="Qwen2-VL's tokenizer")
    )
    template: str = attrs.field(
        default=None, converter=read_template, repr=False, validator=one_place
    )
    pixels: int = attrs.field(default=PIXELS, validator=integer(1, SIDE**2))
    gradient_checkpointing: bool = False
    policy: DtypePolicy = _BFLOAT16
    sizes: TowerSizes = attrs.field(default=QWEN2_VL_7B, repr=False)
    conversation: Conversation = attrs.field(init=False, repr=False)
    model: HPSv3Model = attrs.field(init=False, repr=False)
    _constants: tuple[Tensor, Tensor, Tensor] = attrs.field(init=False, repr=False)
    _tokens: dict[str, Tensor] = attrs.field(factory=dict, init=False, repr=False)

    @staticmethod
    def needs(source: Place, tokenizer: Place, sizes: TowerSizes) -> tuple[Need, ...]:
        """What its construction reads."""
        check = partial(check_files, source, sizes=sizes)
        weights = attrs.evolve(file_need(source, FILE), check=check, tower=source)
        return package("transformers"), weights, tokenizer_need(tokenizer)

    @conversation.default
    def _load_conversation(self) -> Conversation:
        # Now, because validators run last and loading comes before that.
        attrs.validate(self)
        if self.pixels < self._side**2:
            raise ValueError(
                f"`pixels` must be at least {self._side**2}, those of one token, got {self.pixels}"
            )
        tokenizer = load_tokenizer(self.tokenizer, kind="AutoTokenizer")
        conversation = Conversation(tokenizer, self.template)
        ordinary = self.sizes.text["vocab_size"] - 1
        if conversation.reward_id != ordinary:
            raise ValueError(
                f"`tokenizer` must be of {ordinary} tokens and the reward token, got one whose "
                f"reward token is number {conversation.reward_id}; take that of {_TOKENIZER}"
            )
        return conversation

    @model.default
    def _load(self) -> HPSv3Model:
        dtype = self.policy.weights
        return self.towers.get(
            self.source,
            dtype=dtype,
            device=self.device,
            load=lambda: load_model(self.source, dtype=dtype, sizes=self.sizes),
        )

    @_constants.default
    def _on_device(self) -> tuple[Tensor, Tensor, Tensor]:
        dtype, device = self.policy.state, self.device
        mean, std = channel_tensors(CLIP_MEAN, CLIP_STD, dtype=dtype, device=device)
        return mean, std, torch.tensor(self.conversation.before, device=device)

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Score B pictures (B, 3, H, W) in [0, 1] against B prompts: (B,), differentiable.

        Pictures may be at most 200 times as long as wide.
        """
        check_inputs(images, prompts)
        return score_in_batches(self._score, images, prompts, batch=self.batch)

    @property
    def _side(self) -> int:
        return int(self.sizes.vision["patch_size"] * self.sizes.vision["spatial_merge_size"])

    def _score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        mean, std, before = self._constants
        with torch.autocast(self.device.type, enabled=False):
            pixels = images.to(device=self.device, dtype=self.policy.state)
            pixels = fit_budget(pixels, pixels=self.pixels, multiple=self._side)
            pixels = normalise(pixels, mean, std)
        after, last = self._read(prompts)
        flat, grid = self._cut(pixels)
        layers = self.model.layers_recomputed() if self.gradient_checkpointing else nullcontext()
        with self.policy.autocast(self.device), layers:
            score: Tensor = self.model(flat, grid, before=before, after=after, last=last)
        return score

    def _cut(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        vision = self.sizes.vision
        patch = vision["patch_size"]
        flat = patches(
            pixels,
            patch=patch,
            merge=vision["spatial_merge_size"],
            frames=vision["temporal_patch_size"],
        )
        size = [1, *(side // patch for side in pixels.shape[-2:])]
        grid = torch.tensor([size] * len(pixels), device=self.device)
        return flat.to(self.policy.weights), grid

    def _read(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        for prompt in prompts:
            if prompt not in self._tokens:
                ids = torch.tensor(self.conversation.after(prompt), device=self.device)
                self._tokens[prompt] = ids
        rows = [self._tokens[prompt] for prompt in prompts]
        last = torch.tensor([len(row) - 1 for row in rows], device=self.device)
        return pad_sequence(rows, batch_first=True), last
