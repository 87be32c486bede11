"""Certify a grid: pack what its tables are computed from into one file for `psld verify`.

    psld certify grid_name=demo

It holds the grid, results, kept features, manifests and tables; no images and no weights.
"""

from pathlib import Path

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


@entry_point("certify", CertifySettings, has_config=False)
def main(settings: CertifySettings) -> None:
    from psld.report.certificate import certify

    grid = load_grid(settings.grid_name)
    output = settings.output or Path(paths.certificate(grid.name))
    cells, size = certify(grid, output), output.stat().st_size / 1e6
    print(f"wrote {output}: {cells} of {len(grid.measured_cells)} cells, {size:.1f} MB")
    print(f"SHA-256 {sha256_of_file(output)}")
