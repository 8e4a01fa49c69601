"""How the model that writes words is made, `python -m tools.words`, and how it is aligned."""
