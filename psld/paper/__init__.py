"""What only the paper and its authors' code need, as parts: nothing imports it by name."""
