"""Training: the losses, the loop, checkpoints, and what the ranks agree on."""
