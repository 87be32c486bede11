"""The fault matrix: every stage under every fault. `python -m tests.faults` runs and prints it."""
