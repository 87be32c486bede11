"""Certify a grid: pack what its tables are computed from into one file for `psld verify`.

    psld certify grid_name=demo

The file has the grid, the results with the features or sums that they were computed from, the
manifests of models and references, the tables and the plots. It has no images and no weights.
"""

from pathlib import Path

from pydantic import Field

from psld.commands.entry import entry_point
from psld.config.settings import Settings
from psld.grid.loading import load_grid
from psld.utils.files import sha256_of_file


class CertifySettings(Settings):
    """Settings of `psld certify`."""

    grid_name: str
    """Name of the grid, configs/grid/NAME.yaml."""
    output: Path
    """Path of the certificate."""
    max_mb: float | None = Field(gt=0)
    """The largest size of the certificate in MB; a larger one is not written. null: any size."""


@entry_point("certify", CertifySettings)
def main(settings: CertifySettings) -> None:
    from psld.report.certification import certify

    grid = load_grid(settings.grid_name)
    cells = certify(grid, settings.output, settings.max_mb)
    size = settings.output.stat().st_size / 1e6
    print(f"wrote {settings.output}: {cells} of {len(grid.cells)} cells, {size:.1f} MB")
    print(f"SHA-256 {sha256_of_file(settings.output)}")
