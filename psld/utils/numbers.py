"""Numbers that settings and functions of the library check by their type."""

from typing import Annotated, Any

from pydantic import BeforeValidator, Field

Tolerance = Annotated[float, Field(ge=1e-12, lt=1)]
"""Relative and absolute error tolerance of adaptive steps. Below 1e-12 the steps would follow the
rounding of float64, and seem to have no end."""


def _plain(value: Any) -> Any:
    """Return a number or an array of numpy or torch as Python's."""
    return value.tolist() if hasattr(value, "tolist") else value


PLAIN = BeforeValidator(_plain)
Whole = Annotated[int, Field(strict=True), PLAIN]
"""A whole number, which no boolean is."""
Count = Annotated[Whole, Field(ge=1, le=10**12)]
"""A number of images, or of anything else that a call counts."""
Seed = Annotated[Whole, Field(ge=0)]
Label = Annotated[Whole, Field(ge=0)]
"""A class by number."""
Level = Annotated[float, Field(strict=True, ge=0), PLAIN]
"""A noise level."""
ImageShape = Annotated[tuple[Count, ...], Field(min_length=3, max_length=3), PLAIN]
"""C×H×W."""
BatchShape = Annotated[tuple[Count, ...], Field(min_length=4, max_length=4), PLAIN]
"""n×C×H×W."""
