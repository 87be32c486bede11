"""Files, locks, errors, devices, randomness and provenance, for every other package."""
