"""Trained models and guides: settings, objectives, modules, files, and the start of samplers."""
