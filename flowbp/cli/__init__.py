"""The two commands, `flowbp` and `flowbp-eval`, and what they share."""
