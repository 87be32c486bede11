"""Datasets: where images come from, and the HDF5 store that every later stage reads."""
