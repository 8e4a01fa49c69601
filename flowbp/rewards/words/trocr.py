"""TrOCR: a picture transformer, and a language model that writes what it sees."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import attrs
import torch
from torch import Tensor

from flowbp.place import Place, located, read_json
from flowbp.rewards.needs import Need, model_need, package, tokenizer_need
from flowbp.rewards.pixels import channel_tensors, normalise, resized
from flowbp.rewards.pretrained import channel_statistics, load_model, load_tokenizer
from flowbp.rewards.words.quoted import QuotedTextReward

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, VisionEncoderDecoderModel

_REPOSITORY = "microsoft/trocr-base-printed"
_TOKENIZER_FILES = ("tokenizer.json", "vocab.json", "sentencepiece.bpe.model")
# TrOCR's own, for a folder that does not say.
_HALF = (0.5, 0.5, 0.5)
_IGNORED = -1


@attrs.frozen(kw_only=True, eq=False)
class TrOCR(QuotedTextReward):
    """Log-likelihood per character of a prompt's quoted text under a TrOCR model.

    ``score = sum_i log p(token_i | tokens before it, picture) / characters``, the end of the text
    among the tokens, with the text itself given to the decoder (teacher forcing); the logarithm in
    float32 whatever the policy. The region is stretched to the model's square. It reads one line.

    Any `VisionEncoderDecoderModel` of transformers with a picture encoder of a fixed size will do.
    Construction loads the model. `batch` changes scores by rounding alone.

    Args:
        source: A folder or hub id of the model.
        tokenizer: A folder or hub id of its tokenizer; None takes the source's.
        region: Where the text is read, see `Region`; best the line of text with little around it.
        regions: Of single prompts, by their whole text, in place of `region`.
        unquoted: The score, without gradient, of a prompt that quotes nothing; None refuses it.

    Raises:
        ModuleNotFoundError: transformers is not installed.
        FileNotFoundError: The hub cannot be reached, or a folder lacks files.
        ValueError: No such path, a model of another kind, weights or a tokenizer that do not fit;
            when called, a prompt whose text cannot be read.

    Example:
        ``TrOCR(source="microsoft/trocr-base-printed")(images, ['a sign that says "OPEN"'])``

    Source: Li et al., "TrOCR: Transformer-based Optical Character Recognition with Pre-trained
    Models", arXiv 2109.10282.
    """

    source: Place = attrs.field(
        default=_REPOSITORY, validator=located(folder="a VisionEncoderDecoderModel")
    )
    tokenizer: Place | None = attrs.field(default=None, validator=located(folder="its tokenizer"))
    text_tokenizer: PreTrainedTokenizerBase = attrs.field(init=False, repr=False)
    model: VisionEncoderDecoderModel = attrs.field(init=False, repr=False)
    _statistics: tuple[Tensor, Tensor] = attrs.field(init=False, repr=False)
    _tokens: dict[str, list[int]] = attrs.field(factory=dict, init=False, repr=False)

    @staticmethod
    def needs(source: Place, tokenizer: Place | None) -> tuple[Need, ...]:
        """What its construction reads."""
        place, argument = (source, "source") if tokenizer is None else (tokenizer, "tokenizer")
        return (
            package("transformers"),
            model_need(source, check=_check_type),
            tokenizer_need(place, files=_TOKENIZER_FILES, argument=argument),
        )

    @text_tokenizer.default
    def _load_tokenizer(self) -> PreTrainedTokenizerBase:
        # Now, because validators run last and loading comes before that.
        attrs.validate(self)
        return load_tokenizer(
            self.source if self.tokenizer is None else self.tokenizer,
            kind="AutoTokenizer",
            files=_TOKENIZER_FILES,
            argument="source" if self.tokenizer is None else "tokenizer",
        )

    @model.default
    def _load(self) -> VisionEncoderDecoderModel:
        dtype = self.policy.weights
        model: VisionEncoderDecoderModel = self.towers.get(
            self.source,
            dtype=dtype,
            device=self.device,
            # TrOCR's files lack the encoder's pooler, which no decoder reads.
            load=lambda: load_model(
                self.source,
                "VisionEncoderDecoderModel",
                check=_check_type,
                dtype=dtype,
                unused=("encoder.pooler.",),
            ),
        )
        self._check_fit(model)
        return model

    @_statistics.default
    def _on_device(self) -> tuple[Tensor, Tensor]:
        mean, std = channel_statistics(self.source, otherwise=(_HALF, _HALF))
        return channel_tensors(mean, std, dtype=self.policy.state, device=self.device)

    def _check_fit(self, model: VisionEncoderDecoderModel) -> None:
        """Refuse a model without a square or marks, and a tokenizer of another one."""
        size, words = _image_size(model), model.config.decoder.vocab_size
        marks = (_mark(model, "decoder_start_token_id"), _mark(model, "eos_token_id"))
        if size is None or None in marks:
            raise ValueError(
                f"`source` {str(self.source)!r} must have an encoder of a fixed image_size and a "
                f"decoder with decoder_start_token_id and eos_token_id, got {size} and {marks}; "
                "see its config.json"
            )
        if len(self.text_tokenizer) > words:
            raise ValueError(
                f"`tokenizer` has {len(self.text_tokenizer)} entries where the model has {words}; "
                "name the tokenizer of this very model"
            )

    def _log_likelihoods(self, crops: Tensor, texts: Sequence[str]) -> Tensor:
        size = _image_size(self.model)
        with torch.autocast(self.device.type, enabled=False):
            pixels = normalise(resized(crops, size, size, mode="bilinear"), *self._statistics)
        rows = [torch.tensor(self._read(text)) for text in texts]
        labels = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=_IGNORED)
        labels = labels.to(self.device)
        start = labels.new_full((len(texts), 1), _mark(self.model, "decoder_start_token_id"))
        # What follows a text's end is read by nothing that counts.
        given = torch.cat([start, labels[:, :-1].clamp(min=0)], dim=1)
        with self.policy.autocast(self.device):
            logits = self.model(
                pixel_values=pixels.to(self.policy.weights),
                decoder_input_ids=given,
                use_cache=False,
            ).logits
        log_probabilities = logits.to(self.policy.state).log_softmax(-1)
        chosen = log_probabilities.gather(2, labels.clamp(min=0)[..., None])[..., 0]
        return torch.where(labels == _IGNORED, 0.0, chosen).sum(1)

    def _read(self, text: str) -> list[int]:
        """The tokens of a text and its end; the model was trained without a mark before them."""
        if text not in self._tokens:
            tokens = self.text_tokenizer(text, add_special_tokens=False).input_ids
            self._tokens[text] = [*tokens, _mark(self.model, "eos_token_id")]
        return self._tokens[text]

    def _fault(self, text: str) -> str:
        tokens, most = self._read(text), _most_tokens(self.model)
        if self.text_tokenizer.unk_token_id in tokens:
            return "the model's tokenizer does not know some of its characters"
        if most is not None and len(tokens) > most:
            return f"its text has {len(tokens)} tokens, and the model reads at most {most}"
        return ""


def _image_size(model: VisionEncoderDecoderModel) -> Any:
    return getattr(model.config.encoder, "image_size", None)


def _most_tokens(model: VisionEncoderDecoderModel) -> int | None:
    return getattr(model.config.decoder, "max_position_embeddings", None)


def _mark(model: VisionEncoderDecoderModel, name: str) -> Any:
    """A special token of the decoder, wherever a configuration says it."""
    for config in (model.config, model.config.decoder, model.generation_config):
        found = getattr(config, name, None)
        if found is not None:
            return found
    return None


def _check_type(folder: Path) -> None:
    what = "a folder of a VisionEncoderDecoderModel"
    kind = read_json(folder / "config.json", what=what).get("model_type")
    if kind != "vision-encoder-decoder":
        raise ValueError(
            f"`source` must hold a VisionEncoderDecoderModel, got model_type {kind!r} in "
            f"{str(folder)!r}"
        )
