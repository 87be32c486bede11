"""Variants of a loaded grid, which need no configs."""

from dataclasses import replace
from typing import Any

from psld.grid.cells import Grid
from psld.grid.schema import GridFile


def file_with(grid: Grid, **changes: Any) -> Grid:
    """The grid with a file that says something else. (A copy of a file keeps what it computed.)"""
    content = {key: getattr(grid.file, key) for key in GridFile.model_fields}
    return replace(grid, file=GridFile(**(content | changes)))
