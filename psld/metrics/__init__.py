"""Metrics: feature extractors, statistics that can be merged, Fréchet distances."""
