"""Files to copy, the published tables in `paper`, and a reward of words in `words`."""
