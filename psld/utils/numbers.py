"""Numbers that settings and functions of the library check by their type."""

from typing import Annotated

from pydantic import Field

Tolerance = Annotated[float, Field(ge=1e-12, lt=1)]
"""Relative and absolute error tolerance of adaptive steps. Below 1e-12 the steps would follow the
rounding of float64, and seem to have no end."""
