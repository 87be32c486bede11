"""Score networks: NCSN++, its noise-conditional classifier, and the EMA of weights."""
