"""Embeddings for a new language learned through a shallow model that shares the bottom of the full one."""
