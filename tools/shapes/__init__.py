"""How the embedded model was made: `python -m tools.shapes`, reproducible from its seed."""
