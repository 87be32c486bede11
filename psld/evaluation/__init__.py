"""The evaluation of cells and of images of others: shards, references, results, bands."""
