"""Training of models and guides: losses, loop, checkpoints, ranks; saved and imported models."""
