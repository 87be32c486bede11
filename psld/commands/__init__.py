"""The commands of the program `psld`, grouped in thin modules."""
