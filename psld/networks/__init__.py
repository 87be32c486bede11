"""Score networks: NCSN++, its noise-conditional guide, and the EMA of weights."""
