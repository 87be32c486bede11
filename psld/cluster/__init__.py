"""Trainings as Slurm jobs. Does not import torch: launchers wait for days on a login node."""
