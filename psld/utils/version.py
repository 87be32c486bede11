"""The version of the software, for the package too. CITATION.cff repeats it."""

VERSION = "0.1.0"
