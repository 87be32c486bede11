"""Settings: their base class, the folders of configs, composition by Hydra. Imports no torch."""
