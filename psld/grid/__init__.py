"""A grid: models × samplers = cells, in tables and figures. Imports no torch."""
