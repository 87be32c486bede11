"""Certify a grid: pack what its tables are computed from into one file for `psld verify`.

    psld certify grid_name=demo

The file has the grid, the results with the features or sums that they were computed from, the
manifests of models and references, the tables and the plots. It has no images and no weights.
"""

from pathlib import Path

from pydantic import Field

from psld.commands.entry import entry_point
from psld.config.settings import Settings
from psld.grid import paths
from psld.grid.cache import load_grid
from psld.utils.files import sha256_of_file


class CertifySettings(Settings):
    """Settings of `psld certify`."""

    grid_name: str = "demo"
    """Name of the grid, configs/grid/NAME.yaml."""
    output: Path | None = None
    """Path of the certificate; null: results/certificates/GRID.zip."""
    max_mb: float | None = Field(1000, gt=0)
    """The largest size of the certificate in MB; a larger one is not written. null: any size."""


@entry_point("certify", CertifySettings, has_config=False)
def main(settings: CertifySettings) -> None:
    from psld.report.certification import certify

    grid = load_grid(settings.grid_name)
    output = settings.output or Path(paths.certificate(grid.name))
    cells = certify(grid, output, settings.max_mb)
    size = output.stat().st_size / 1e6
    print(f"wrote {output}: {cells} of {len(grid.measured_cells)} cells, {size:.1f} MB")
    print(f"SHA-256 {sha256_of_file(output)}")
