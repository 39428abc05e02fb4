"""Models with more than one vocabulary."""
