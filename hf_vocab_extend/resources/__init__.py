"""How auxiliary knowledge is had: text, vectors, caches."""
