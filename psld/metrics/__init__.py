"""Metrics: feature extractors, feature statistics, measures and confidence intervals."""
