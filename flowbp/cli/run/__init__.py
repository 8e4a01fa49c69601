"""A run: preflight, training, its evaluations, its folder and its report."""
