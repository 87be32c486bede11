"""The differences of two contents, such as a recomputed record and one that somebody states."""

import math
from collections.abc import Iterator
from typing import Any

TOLERANCE = 1e-6
"""The largest relative difference of a recomputed number: other machines round differently."""


def differences(computed: Any, said: Any, key: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield key, computed and said value wherever two contents differ by more than rounding."""
    if isinstance(computed, dict) and isinstance(said, dict):
        for name in {**computed, **said}:
            where = f"{key}.{name}" if key else name
            yield from differences(computed.get(name), said.get(name), where)
    elif isinstance(computed, list) and isinstance(said, list) and len(computed) == len(said):
        for index, pair in enumerate(zip(computed, said, strict=True)):
            yield from differences(*pair, f"{key}.{index}" if key else str(index))
    elif computed != said and not _close(computed, said):
        yield key, short(computed), short(said)


def _close(a: Any, b: Any) -> bool:
    """Check that two numbers, or texts of numbers, are equal up to rounding."""
    try:
        return math.isclose(float(a), float(b), rel_tol=TOLERANCE, abs_tol=TOLERANCE / 1000)
    except (TypeError, ValueError):
        return False


def short(value: Any) -> str:
    """Return a value as text of one line."""
    text = " ".join(str(value).split())
    return text if len(text) <= 60 else f"{text[:57]}…"
