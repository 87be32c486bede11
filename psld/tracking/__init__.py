"""Runs of wandb: what stages and results become there."""
