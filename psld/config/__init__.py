"""Settings: base class, config folders and composition with Hydra. Does not import torch."""
