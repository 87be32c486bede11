"""Metrics: feature extractors, mergeable statistics, measures, and their intervals."""
