"""Forward processes: linear SDEs built by the recipe, with PSLD, CLD and VP-SDE as instances."""
