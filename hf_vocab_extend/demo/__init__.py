"""The embedded demo: a small licensed text sample, a real model from PyPI, and the walk over them."""

from .data import load_samples, packaged_model, swahili_lines

__all__ = ["load_samples", "packaged_model", "swahili_lines"]
