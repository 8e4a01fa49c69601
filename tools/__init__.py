"""Commands for the makers of this project; none of them is installed."""
