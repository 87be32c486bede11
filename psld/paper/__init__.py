"""Parts that only the paper's grids use, and the import of the official code's checkpoints."""
