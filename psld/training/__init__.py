"""Training of models and guides: loop, checkpoints, ranks, logs."""
