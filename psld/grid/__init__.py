"""Grids: models × samplers = cells, shown in tables and figures. This package imports no torch."""
