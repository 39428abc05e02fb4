"""Tokenizers in, tables out; nothing here imports torch."""
