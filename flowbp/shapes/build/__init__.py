"""How the embedded model was made: `python -m flowbp.shapes.build`, reproducible from its seed."""
