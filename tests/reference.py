"""Access to the reference vectors: all matching files, without silent omissions."""

import os
from pathlib import Path

import numpy as np

DEFAULT = Path(__file__).parent / "data" / "reference"


def reference_files(pattern: str) -> list[Path]:
    """Return all reference files that match a pattern, sorted. Raises an error if there is no such
    file, so that no test is skipped."""
    folder = Path(os.environ.get("PSLD_REFERENCE_DIR", DEFAULT))
    files = sorted(folder.glob(pattern))
    if not files:
        raise FileNotFoundError(f"no reference vector {pattern} in {folder}")
    return files


def mass_inverse(v: dict[str, np.ndarray]) -> float:
    """Return M⁻¹ for the frictions Γ and ν under critical damping."""
    return float(v["nu"] - v["gamma"]) ** 2 / 4


def load(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays of a reference file by name; a missing name raises KeyError."""
    with np.load(path) as archive:
        return {name: archive[name] for name in archive.files}
