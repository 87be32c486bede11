"""What only the paper and its authors' code need: parts, and the import of their checkpoints."""
