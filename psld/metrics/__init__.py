"""Metrics: feature extractors, statistics that can be merged, measures, and their intervals."""
