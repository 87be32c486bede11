"""Settings: their base class, where configs lie, and how Hydra composes them. Imports no torch."""
