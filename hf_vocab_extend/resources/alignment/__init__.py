"""Which pieces of two vocabularies translate each other, counted in parallel text."""
