"""Tests, on tiny real models and tokenizers built in memory."""
