"""Trainings as Slurm jobs.

The package does not import torch, because launchers wait for days on a login node.
"""
