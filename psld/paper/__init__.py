"""Parts that only the grids of the paper use, and the import of official checkpoints."""
