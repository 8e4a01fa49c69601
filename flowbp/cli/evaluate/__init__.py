"""An evaluation of several models: preflight, pictures, metrics, its folder and its report."""
