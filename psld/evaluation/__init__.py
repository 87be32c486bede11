"""The evaluation of cells and of external images: references, results, bands, likelihood."""
