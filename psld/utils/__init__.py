"""Files, locks, errors, devices, randomness and provenance, for every other package."""

VERSION = "0.1.0"
"""The version of the software, for the package too. CITATION.cff repeats it."""
