"""`python -m tools.shapes OUT`: make the embedded model anew."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
import torch

from tools.shapes.autoencoder import build_autoencoder
from tools.shapes.base import build_base
from tools.shapes.corpus import build_corpus
from tools.shapes.export import save_base, save_reward
from tools.shapes.graded_corpus import build_graded_corpus
from tools.shapes.measure import measure
from tools.shapes.recipe import Recipe
from tools.shapes.reward import build_reward
from tools.shapes.tokens import build_tokenizer


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tools.shapes", description=__doc__)
    parser.add_argument("out", type=Path, help="folder to write base/, reward/, figures.json to")
    parser.add_argument(
        "--part",
        choices=("all", "vae", "base", "reward", "figures"),
        default="all",
        help="one part only; base and reward need the vae part's vae/ in OUT",
    )
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--length", type=float, default=1.0, help="factor on every length")
    parser.add_argument("--count", type=int, default=3000, help="pictures a metric")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> None:
    """Train the parts that were asked for and write them."""
    from diffusers import AutoencoderKL

    options = _arguments(arguments)
    out, device = options.out, torch.device(options.device)
    recipe, began = Recipe(seed=options.seed).shortened(options.length), time.monotonic()
    wanted = ("vae", "base", "reward", "figures") if options.part == "all" else (options.part,)
    out.mkdir(parents=True, exist_ok=True)
    tokenizer = build_tokenizer()
    if "vae" in wanted:
        pictures = attrs.evolve(recipe, pictures=recipe.vae_pictures)
        build_autoencoder(recipe, build_corpus(pictures, tokenizer, device)).save_pretrained(
            out / "vae"
        )
    if set(wanted) & {"base", "reward"}:
        vae: Any = AutoencoderKL.from_pretrained(out / "vae").to(device).eval()
        if "reward" in wanted:
            pairs = build_graded_corpus(recipe, tokenizer, device)
            save_reward(build_reward(recipe, pairs, tokenizer, vae), tokenizer, out / "reward")
        if "base" in wanted:
            corpus = build_corpus(recipe, tokenizer, device)
            save_base(build_base(recipe, corpus, tokenizer, vae), vae, tokenizer, out / "base")
    if "figures" in wanted:
        figures = measure(out, device, options.count)
        figures["device"] = torch.cuda.get_device_name() if device.type == "cuda" else "CPU"
        (out / "figures.json").write_text(json.dumps(figures, indent=2) + "\n")
        print(json.dumps(figures, indent=2))
    print(f"{', '.join(wanted)}: {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
