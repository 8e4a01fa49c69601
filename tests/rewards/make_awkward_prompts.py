"""How awkward_prompts.json was made, with open_clip's own tokenizer.

    pip install open_clip_torch==3.3.0
    python tests/rewards/make_awkward_prompts.py

The file holds, for each prompt, the text that open_clip tokenizes and its ids to the end mark; and
of CLIP's vocabulary only the entries and merges that these prompts use, under their true numbers.
Leaving out merges that are never applied changes nothing: the lowest in rank is applied first, and
it is there.
"""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

PATH = Path(__file__).with_name("awkward_prompts.json")
PROMPTS = [
    "A photo of a cat",
    "“Curly” ‘quotes’ and an em—dash…",
    "Fish &amp; chips &lt;3",
    "Escaped twice: &amp;amp; &amp;quot;here&amp;quot;",
    "a smiling 😀 face and a 👩‍🚀 in space 🚀",
    "the oﬃce of the ﬂying ﬁsh",
    "schÃ¶n mojibake, cafÃ© au lait",
    "  tabs\tand\nlines   and\u00a0hard\u3000spaces  ",
    "A RED Circle, İstanbul ÀÉÎ",
    "it's they're we'd I'll don't",
    "1234 5.6% of 3/4 cats, 8k, f/1.8",
    "full width ＡＢＣ and ½ ² ™",
    "e\u0301 combined, é composed",
    "日本の庭園、桜",
    "مرحبا 🇫🇷 привет",
    "the end <|endoftext|> and beyond <|startoftext|>",
    "zero\u200bwidth and soft\u00adhyphen and \ufeffmark",
    "&nbsp;&copy; <b>bold</b> &unknown;",
    "",
    "the quick brown fox jumps over a lazy dog " * 22 + "and rests",
]


def used_merges(tokenizer: Any, token: str) -> list[tuple[str, str]]:
    """The merges that byte-pair encoding applies to one piece of text."""
    letters = [tokenizer.byte_encoder[byte] for byte in token.encode()]
    word = [*letters[:-1], letters[-1] + "</w>"]
    used = []
    while len(word) > 1:
        ranks = tokenizer.bpe_ranks
        pair = min(itertools.pairwise(word), key=lambda p: ranks.get(p, float("inf")))
        if pair not in ranks:
            break
        used.append(pair)
        merged, rest = [], word
        while rest:
            whole = tuple(rest[:2]) == pair
            merged.append("".join(rest[:2]) if whole else rest[0])
            rest = rest[2:] if whole else rest[1:]
        word = merged
    return used


def main() -> None:
    from open_clip.tokenizer import SimpleTokenizer

    tokenizer = SimpleTokenizer()
    rows, merges = [], set()
    for prompt in PROMPTS:
        cleaned = tokenizer.clean_fn(prompt)
        ids = tokenizer([prompt])[0].tolist()
        end = ids.index(tokenizer.eot_token_id)
        rows.append({"prompt": prompt, "cleaned": cleaned, "ids": ids[: end + 1]})
        for token in tokenizer.pat.findall(cleaned):
            merges.update(used_merges(tokenizer, token))
    needed = {letter for pair in merges for letter in (*pair, "".join(pair))}
    # All bytes, in the middle of a word and at its end.
    vocabulary = {
        token: number
        for token, number in tokenizer.encoder.items()
        if number < 512 or token in needed
    }
    vocabulary |= {"<|startoftext|>": 49406, "<|endoftext|>": 49407}
    ordered = sorted(merges, key=tokenizer.bpe_ranks.__getitem__)
    content = {"prompts": rows, "vocabulary": vocabulary, "merges": [" ".join(m) for m in ordered]}
    text = json.dumps(content, ensure_ascii=True, separators=(",", ":"))
    PATH.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
