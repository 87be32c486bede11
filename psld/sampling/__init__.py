"""Loaded models and their samples: cells in shards, guided or inpainted; students of a cell."""
