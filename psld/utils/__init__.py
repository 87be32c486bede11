"""Utilities for all other packages: files, locks, errors, devices, randomness and provenance."""

VERSION = "0.1.0"
"""The version of the software and of the package. CITATION.cff contains the same version."""
