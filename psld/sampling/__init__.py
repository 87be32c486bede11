"""Sampling of cells: their shards of images, guided or inpainted, and denoisers of others."""
