"""The published tables of arXiv 2606.11075 again: 21 runs, their evaluations and a page."""
