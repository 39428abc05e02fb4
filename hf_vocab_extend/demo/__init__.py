"""The embedded demo: a small licensed text sample and the walk over it."""
