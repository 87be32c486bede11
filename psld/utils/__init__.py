"""Files, locks, errors, devices, randomness, provenance: what every other room uses."""
