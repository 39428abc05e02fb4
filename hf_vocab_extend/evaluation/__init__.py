"""Measures of what an extension is worth."""
