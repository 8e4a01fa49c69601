"""`flowbp init`: a configuration to start from, for a model, a method and a reward."""
