"""HPSv3: how much people would like a picture for a prompt, by a vision-language model."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import nullcontext
from functools import partial

import attrs
import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from flowbp.adapters.policy import CPU, DtypePolicy
from flowbp.core._validators import integer
from flowbp.limits import BATCH, SIDE
from flowbp.rewards.hpsv3_check import check_hpsv3
from flowbp.rewards.hpsv3_model import FILE, HUB_ID, QWEN2_VL_7B, HPSv3Model, QwenSizes, load_model
from flowbp.rewards.hpsv3_prompt import Conversation, read_template
from flowbp.rewards.inputs import check_inputs
from flowbp.rewards.needs import Need, Reading, package
from flowbp.rewards.pixels import CLIP_MEAN, CLIP_STD, normalise
from flowbp.rewards.places import located
from flowbp.rewards.portions import in_portions
from flowbp.rewards.qwen_pictures import fit, patches
from flowbp.rewards.sources import check_tokenizer
from flowbp.rewards.templates import one_place
from flowbp.rewards.towers import TOWERS, Towers
from flowbp.rewards.words import load_words

PIXELS = 256 * 28 * 28
"""Pixels that HPSv3 was trained to look at: 448x448, in 256 tokens."""

_TOKENIZER = "Qwen/Qwen2-VL-7B-Instruct"
_TOKENIZER_FILES = ("tokenizer.json", "vocab.json")
_BFLOAT16 = DtypePolicy(torch.bfloat16, torch.bfloat16)


@attrs.frozen(kw_only=True, eq=False)
class HPSv3:
    """Human Preference Score v3: the expected preference under Qwen2-VL-7B with a small head.

    ``score = head(LM(before, vision(image), after(prompt))[<|Reward|>])[0]``, the head in float32
    whatever the policy; about 10 for a good picture, below 0 for a bad one. The prompt comes after
    the picture in the conversation, so only its tokens can be kept; they are, on the device.

    Construction loads the model; in bfloat16 the published one takes 15.5 GB. A batch changes a
    score by rounding alone.

    Args:
        source: The published repository, its file, or a folder or another hub id with it or with
            shards and their index.
        tokenizer: A folder or hub id of Qwen2-VL's tokenizer, with or without the reward token.
        template: What the model is asked, with ``{prompt}`` where the prompt goes, as text or the
            path of a file. It must be given: the wording that it was trained with is its authors',
            and is not shipped; an error says where it is.
        pixels: Size to which pictures are brought, keeping their proportions.
        batch: Pictures in the model at a time, each portion computed again in the backward pass;
            None takes all.
        gradient_checkpointing: Recompute each layer of both towers in the backward pass.
        policy: Dtypes of the model.
        device: Where it runs.
        towers: With whom the model is shared.
        sizes: of the model in the file.

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

    source: str | os.PathLike[str] = attrs.field(
        default=HUB_ID, validator=located(file=FILE, folder=f"with {FILE}, or shards and an index")
    )
    tokenizer: str | os.PathLike[str] = attrs.field(
        default=_TOKENIZER, validator=located(folder="Qwen2-VL's tokenizer")
    )
    template: str = attrs.field(
        default=None, converter=read_template, repr=False, validator=one_place
    )
    pixels: int = attrs.field(default=PIXELS, validator=integer(1, SIDE**2))
    batch: int | None = attrs.field(
        default=None, validator=attrs.validators.optional(integer(1, BATCH))
    )
    gradient_checkpointing: bool = False
    policy: DtypePolicy = _BFLOAT16
    device: torch.device = attrs.field(default=CPU, converter=torch.device)
    towers: Towers = attrs.field(default=TOWERS, repr=False)
    sizes: QwenSizes = attrs.field(default=QWEN2_VL_7B, repr=False)
    conversation: Conversation = attrs.field(init=False, repr=False)
    model: HPSv3Model = attrs.field(init=False, repr=False)
    _constants: tuple[Tensor, Tensor, Tensor] = attrs.field(init=False, repr=False)
    _tokens: dict[str, Tensor] = attrs.field(factory=dict, init=False, repr=False)

    @staticmethod
    def needs(
        source: str | os.PathLike[str], tokenizer: str | os.PathLike[str], sizes: QwenSizes
    ) -> tuple[Need, ...]:
        """What its construction reads; see `flowbp.rewards.Need`."""
        weights = Need(
            check=partial(check_hpsv3, source, sizes=sizes),
            tower=source,
            reading=Reading(source, (FILE,), alone=True),
        )
        words = Need(
            check=partial(check_tokenizer, tokenizer, files=_TOKENIZER_FILES),
            reading=Reading(tokenizer, _TOKENIZER_FILES),
        )
        return package("transformers"), weights, words

    @conversation.default
    def _load_words(self) -> Conversation:
        # Now, because validators run last and loading comes before that.
        attrs.validate(self)
        if self.pixels < self._side**2:
            raise ValueError(
                f"`pixels` must be at least {self._side**2}, those of one token, got {self.pixels}"
            )
        words = load_words(
            self.tokenizer,
            kind="AutoTokenizer",
            files=_TOKENIZER_FILES,
            published=_TOKENIZER,
        )
        conversation = Conversation(words, self.template)
        others = self.sizes.text["vocab_size"] - 1
        if conversation.reward_id != others:
            raise ValueError(
                f"`tokenizer` must be of {others} tokens and the reward token, got one whose "
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
        # Once for all calls: a copy to the device waits for it.
        mean, std = (
            torch.tensor(values, dtype=self.policy.state, device=self.device)
            for values in (CLIP_MEAN, CLIP_STD)
        )
        return mean, std, torch.tensor(self.conversation.before, device=self.device)

    def __call__(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        """Score B pictures against B prompts.

        Args:
            images: (B, 3, H, W) in [0, 1], any size.
            prompts: B prompts.

        Returns:
            (B,) scores in float32 (float64 under a float64 policy).

        Raises:
            ValueError: Images of another shape or more than 200 times as long as wide, or another
                number of prompts.
        """
        check_inputs(images, prompts)
        return in_portions(self._score, images, prompts, batch=self.batch)

    @property
    def _side(self) -> int:
        return int(self.sizes.vision["patch_size"] * self.sizes.vision["spatial_merge_size"])

    def _score(self, images: Tensor, prompts: Sequence[str]) -> Tensor:
        mean, std, before = self._constants
        with torch.autocast(self.device.type, enabled=False):
            pixels = images.to(device=self.device, dtype=self.policy.state)
            pixels = fit(pixels, pixels=self.pixels, multiple=self._side)
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
