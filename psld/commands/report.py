"""Commands that plan a grid, show its results, and certify them.

Importing torch and matplotlib takes seconds, so the settings are validated before these imports.
"""

import os
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Literal

from pydantic import Field

from psld.commands.main import entry_point
from psld.config.settings import Settings
from psld.grid.cache import load_grid
from psld.grid.figures import all_figures
from psld.grid.rows import read_tables
from psld.utils.errors import NotComparedError, RunError, UserError, one_line
from psld.utils.files import sha256_of_file, write_text


class GridSettings(Settings):
    """Settings of all commands about a grid."""

    grid_name: str = "demo"
    """Name of the grid, configs/grid/NAME.yaml."""


class OutputSettings(GridSettings):
    output: str | None = None
    """Output path; for a table or figure, without a file extension. Null means the default path in
    results/."""


class PlanSettings(GridSettings):
    list: Literal["cells", "figures"] | None = None
    """Print the names of all cells or all figures instead of the plan."""
    sustained_tflops: float | None = Field(None, gt=0)
    """TFLOP/s of a GPU on convolutions. The GPU hours of networks that have not been run here are
    estimated from this number. Null means that their GPU hours are unknown."""


@entry_point("plan", PlanSettings, has_config=False)
def plan(settings: PlanSettings) -> None:
    """Plan a grid: print its models, cells, jobs, CPU time and GPU hours.

        psld plan grid_name=paper
        psld plan grid_name=paper sustained_tflops=100   # for networks that have not been run here
        psld plan grid_name=demo list=cells              # each cell is a target of Snakemake

    GPU hours are estimated from the speed of earlier runs. Without earlier runs, they are estimated
    from the TFLOP/s of a GPU.
    """
    grid = load_grid(settings.grid_name)
    match settings.list:
        case "cells":
            print("\n".join(f"{grid.name}/{cell.name}" for cell in grid.measured_cells))
        case "figures":
            print("\n".join(all_figures(grid)))
        case None:
            from psld.report.plan import COUNTED, description  # imports torch

            if not COUNTED.exists():
                print("counting the FLOPs of each network (only once)", file=sys.stderr)
            print(description(grid, settings.sustained_tflops))


class TabulateSettings(OutputSettings):
    table: str | None = None
    """Name of the table to write. Null means that all tables are printed."""


@entry_point("tabulate", TabulateSettings, has_config=False)
def tabulate(settings: TabulateSettings) -> None:
    """Tabulate a grid: write a table as Markdown, CSV, LaTeX and HTML, or print all tables.

        psld tabulate grid_name=demo                    # print all tables
        psld tabulate grid_name=demo table=demo-steps   # write results/tables/demo/demo-steps.*

    Results of cells that have not been run are shown as –.
    """
    if settings.output and settings.table is None:
        raise UserError("output: needs the name of a table; add table=NAME")
    from psld.report.table import print_tables, write_table

    grid = load_grid(settings.grid_name)
    if settings.table is None:
        print_tables(grid)
        return
    if settings.table not in grid.file.tables:
        raise UserError(
            f"table: {settings.table!r} is not in grid {settings.grid_name}; "
            f"its tables are: {', '.join(grid.file.tables)}"
        )
    output = settings.output or grid.table(settings.table)
    write_table(grid, settings.table, output)
    print(f"wrote {output}.csv, {output}.md, {output}.tex and {output}.html")


class FigureSettings(OutputSettings):
    figure: str
    """Name of a figure of the grid (see `psld plan list=figures`)."""


@entry_point("figure", FigureSettings, has_config=False)
def figure(settings: FigureSettings) -> None:
    """Draw a figure of a grid.

        psld figure grid_name=demo figure=nfe              # distance against network evaluations
        psld figure grid_name=demo figure=samplers/cld     # the samplers of one model, side by side

    `psld plan grid_name=demo list=figures` lists the figures of a grid. Writes OUTPUT.png and
    OUTPUT.svg. The default of OUTPUT is results/figures/GRID/FIGURE.
    """
    from psld.report.figures import draw_figure
    from psld.report.plots import save

    grid = load_grid(settings.grid_name)
    drawn = draw_figure(grid, settings.figure)
    save(drawn, settings.output or grid.figure(settings.figure))


@entry_point("page", OutputSettings, has_config=False)
def page(settings: OutputSettings) -> None:
    """Write the results of a grid as one HTML page, and print a summary of each table.

        psld page grid_name=demo        # results/demo.html

    The page also lists the cells that have not been run.
    """
    from psld.report.page import results_page
    from psld.report.table import answers

    grid = load_grid(settings.grid_name)
    output = settings.output or grid.page
    write_text(output, results_page(grid))
    for answer, name in answers(grid, read_tables(grid)).items():
        print(f"{grid.file.tables[name].title}\n    {answer}")
    print(f"Page: {output}")


@entry_point("certify", OutputSettings, has_config=False)
def certify(settings: OutputSettings) -> None:
    """Certify a grid: pack the data behind its tables into one file for `psld verify`.

        psld certify grid_name=demo     # results/certificates/demo.zip

    The file contains the grid, the results, stored features, manifests and tables, but no images
    and no weights.
    """
    from psld.report import certificate

    grid = load_grid(settings.grid_name)
    output = Path(settings.output or grid.certificate)
    cells, size = certificate.certify(grid, output), output.stat().st_size / 1e6
    print(f"wrote {output}: {cells} of {len(grid.measured_cells)} cells, {size:.1f} MB")
    print(f"SHA-256 {sha256_of_file(output)}")


class VerifySettings(Settings):
    certificate: Path
    """Path of the certificate, or of a folder with its unpacked files."""
    grid_name: str | None = None
    """Name of the local grid to compare with. Null means the local grid with the same name as the
    grid of the certificate, if it exists."""
    reference: Path | None = None
    """Folder with your own references, such as features/digits. Subfolders are searched, too."""


@entry_point("verify", VerifySettings, positionals=("certificate",), has_config=False)
def verify(settings: VerifySettings) -> None:
    """Verify a certificate: recompute its tables, compare them, and list all differences.

        psld verify demo.zip                              # or the folder of its files
        psld verify demo.zip grid_name=demo               # also compare with your grid
        psld verify demo.zip reference=features/digits    # also compare with your reference

    Exit codes: 0 if nothing differs, 1 if something differs, 2 for a file that is damaged or not a
    certificate, and 3 if nothing differs but a number or interval could not be recomputed, because
    its features are missing. docs/certificates.md explains what a certificate proves.
    """
    import torch

    from psld.report import certificate
    from psld.report.table import print_tables

    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)  # If the machine is busy, two threads are up to ten times slower.
    path = settings.certificate
    with TemporaryDirectory(prefix="psld-") as temporary:
        verified = certificate.verify(path, Path(temporary), settings.grid_name, settings.reference)
        print_tables(verified.grid, verified.results, with_summary=False)
    for line in verified.wrong:
        print(one_line(f"differs: {path}: {line}"))
    for table, checked in verified.tables.items():
        counts = ", ".join(f"{n} {what}" for what, n in sorted(checked.items()))
        print(one_line(f"{path}: {table}: {counts}"))
    total = sum(sum(checked.values()) for checked in verified.tables.values())
    print(f"{path}: {total} numbers in total, {len(verified.wrong)} differences")
    for line in verified.notes:
        print(one_line(f"{path}: {line}"))
    print(
        f"{path}: not recomputed: SHA-256 of weights and initial distributions, numbers of "
        "Gaussians, seconds, devices, versions"
    )
    print(f"{path}: not proven: that the features come from samples of the named models")
    if path.is_file():
        print(f"{path}: SHA-256 {sha256_of_file(path)}")
    if verified.wrong:
        raise RunError(f"{path}: {len(verified.wrong)} differences, listed above")
    if verified.missing:
        raise NotComparedError("; ".join(verified.missing))
