"""Pictures of a grid: which there are, how they look, and how each is drawn."""
