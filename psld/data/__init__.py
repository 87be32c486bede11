"""Datasets: the sources of images, and the HDF5 store that every later stage reads."""
