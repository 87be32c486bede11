"""Trained models and guides: settings, objectives, modules, files, and initial distributions."""
