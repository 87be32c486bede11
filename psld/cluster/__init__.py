"""Trainings as Slurm jobs. Imports no torch: a launcher waits for days on a login node."""
