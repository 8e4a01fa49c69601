"""What all model families check of prompts, text encoders and tokenizers."""

from __future__ import annotations

from collections.abc import Sequence

from flowbp.adapters.text_tower import TextTower

MAX_T5_LENGTH = 512
"""The most T5 positions that the diffusers pipelines accept."""


def longer_text(length: int, most: int) -> str:
    """What to do about prompts of which `length` tokens are read and could be `most`.

    Args:
        length: The `text_length` in use.
        most: The largest that there is.

    Returns:
        A clause.

    Example:
        >>> longer_text(256, 512)
        'shorten them, or raise backbone.text_length, up to 512'
        >>> longer_text(512, 512)
        'shorten them; backbone.text_length is at its largest, 512'
    """
    if length >= most:
        return f"shorten them; backbone.text_length is at its largest, {most}"
    return f"shorten them, or raise backbone.text_length, up to {most}"


def check_prompts(prompts: Sequence[str]) -> None:
    """Refuse what is no sequence of prompts.

    Args:
        prompts: B strings.

    Raises:
        ValueError: No prompt, or a bare string in place of a sequence.

    Example:
        >>> check_prompts("red")
        Traceback (most recent call last):
            ...
        ValueError: `prompts` must be a sequence of at least one string, got 'red'; write \
[prompt] for a single one
    """
    if isinstance(prompts, str) or not prompts:
        raise ValueError(
            f"`prompts` must be a sequence of at least one string, got {prompts!r}; "
            "write [prompt] for a single one"
        )


def check_positions(name: str, tower: TextTower, length: int) -> None:
    """Refuse a CLIP tokenizer that gives more tokens than its encoder has positions.

    Args:
        name: Of the tower, for the message.
        tower: A CLIP encoder.
        length: The tokenizer's model_max_length.

    Raises:
        ValueError: With the value that fits.

    Example:
        >>> from types import SimpleNamespace
        >>> config = SimpleNamespace(max_position_embeddings=77)
        >>> check_positions("clip", SimpleNamespace(encoder=SimpleNamespace(config=config)), 77)
    """
    positions = tower.encoder.config.max_position_embeddings
    if length > positions:
        raise ValueError(
            f"`{name}` has {positions} positions and the first tokenizer's "
            f"model_max_length is {length}; set it to at most {positions} in "
            "tokenizer_config.json"
        )


def check_text_length(length: int, *, least: int = 1, most: int, note: str = "") -> None:
    """Refuse a number of text positions that the encoder cannot give.

    Args:
        length: The `text_length` asked for.
        least: The least that is legal.
        most: The most.
        note: What the bounds come from, for the message.

    Raises:
        ValueError: With the bounds.

    Example:
        >>> check_text_length(513, most=512)
        Traceback (most recent call last):
            ...
        ValueError: `text_length` must be in [1, 512], got 513
    """
    if not least <= length <= most:
        raise ValueError(f"`text_length` must be in [{least}, {most}]{note}, got {length}")


def check_encoder_width(name: str, tower: TextTower, field: str, wanted: int) -> None:
    """Refuse an encoder of another width than the transformer reads.

    Args:
        name: Of the tower, for the message.
        tower: The encoder.
        field: Of its configuration that holds the width.
        wanted: What the transformer reads.

    Raises:
        ValueError: It belongs to another transformer.

    Example:
        >>> from types import SimpleNamespace
        >>> config = SimpleNamespace(d_model=4096)
        >>> tower = SimpleNamespace(encoder=SimpleNamespace(config=config))
        >>> check_encoder_width("t5", tower, "d_model", 4096)
    """
    got = getattr(tower.encoder.config, field)
    if got != wanted:
        raise ValueError(
            f"`{name}` must have {field} {wanted} like the transformer, got {got}; "
            "this text encoder belongs to another transformer"
        )


def check_joined_width(name: str, width: int, joined: int, made_of: str) -> None:
    """Refuse encoders whose widths together are not what the transformer reads.

    Args:
        name: Of the width, for the message.
        width: What the transformer reads.
        joined: What the encoders give.
        made_of: How that comes about, for the message.

    Raises:
        ValueError: They belong to another transformer.

    Example:
        >>> check_joined_width("width", 12288, 3 * 4096, "3 layers of 4096")
    """
    if joined != width:
        raise ValueError(
            f"`{name}` must be {joined}, {made_of}, got {width}; what encodes the text belongs to "
            "another transformer"
        )
