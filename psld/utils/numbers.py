"""Annotated number types that settings and library functions validate."""

from typing import Annotated, Any

from pydantic import BeforeValidator, Field

Tolerance = Annotated[float, Field(ge=1e-12, lt=1)]
"""Relative and absolute error tolerance of adaptive steps. Below 1e-12, rounding errors of
float64 would determine the step size, and the integration would practically never end."""


def _plain(value: Any) -> Any:
    """Convert numbers and arrays of NumPy and torch to Python numbers and lists."""
    return value.tolist() if hasattr(value, "tolist") else value


PLAIN = BeforeValidator(_plain)
Whole = Annotated[int, Field(strict=True), PLAIN]
"""An integer; booleans are rejected."""
Count = Annotated[Whole, Field(ge=1, le=10**12)]
"""A positive count, such as a number of images."""
Seed = Annotated[Whole, Field(ge=0)]
Label = Annotated[Whole, Field(ge=0)]
"""The index of a class."""
ForwardTime = Annotated[float, Field(gt=0, le=1), PLAIN]
"""A forward time of a process."""
Level = Annotated[float, Field(strict=True, ge=0), PLAIN]
"""A noise level."""
ImageShape = Annotated[tuple[Count, ...], Field(min_length=3, max_length=3), PLAIN]
"""An image shape, C×H×W."""
Size = int | tuple[int, int]
"""The side of square images in pixels, else their height and width."""
BatchShape = Annotated[tuple[Count, ...], Field(min_length=4, max_length=4), PLAIN]
"""The shape of a batch of images, n×C×H×W."""
