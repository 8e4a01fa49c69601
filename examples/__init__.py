"""Files to copy, and the published tables in `paper`."""
