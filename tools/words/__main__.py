"""`python -m tools.words OUT`: make a small Stable Diffusion 3 that writes words, and misspells."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import attrs
import torch

from tools.shapes.autoencoder import build_autoencoder
from tools.shapes.base import build_base
from tools.shapes.export import save_base
from tools.shapes.recipe import Recipe
from tools.words.corpus import build_corpus, font_in, letters_tokenizer
from tools.words.prompts import HELD_OUT_WORDS, TRAINING_WORDS, prompt_for

_VAE_SHARE = 0.3


def main(arguments: Sequence[str] | None = None) -> None:
    """Train both parts within the time given and write the model and its prompts."""
    parser = argparse.ArgumentParser(prog="python -m tools.words", description=__doc__)
    parser.add_argument("out", type=Path, help="folder to write base/ and the prompts to")
    parser.add_argument("--seconds", type=float, default=150, help="for drawing and training")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--pictures", type=int, default=30_000)
    parser.add_argument("--font", type=Path, help="a TrueType file in place of matplotlib's DejaVu")
    parser.add_argument("--batch", type=int, default=512, help="of the model; half for the VAE")
    options = parser.parse_args(arguments)
    out, device, began = options.out, torch.device(options.device), time.monotonic()
    recipe = Recipe(
        seed=options.seed,
        pictures=options.pictures,
        vae_batch=max(1, options.batch // 2),
        base_batch=options.batch,
        vae_seconds=_VAE_SHARE * options.seconds,
    )
    tokenizer = letters_tokenizer()
    corpus = build_corpus(recipe, tokenizer, font_in(options.font), device)
    vae = build_autoencoder(recipe, corpus)
    left = max(0.1, options.seconds - (time.monotonic() - began))
    base = build_base(attrs.evolve(recipe, base_seconds=left), corpus, tokenizer, vae)
    save_base(base, vae, tokenizer, out / "base")
    for name, words in (("training", TRAINING_WORDS), ("held_out", HELD_OUT_WORDS)):
        (out / f"{name}.txt").write_text("".join(f"{prompt_for(word)}\n" for word in words))
    print(f"{time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
